// One word to ids: byte-pair merges by rank (Hugging Face, GPT-2) or by score (SentencePiece), or the most likely
// segmentation (unigram). n·log n in the word's length whatever its content.
#pragma once

#include "tokenizer/definition.h"

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace scalebits {

class WordModel {
 public:
  /// Reads `definition`, which must outlive this.
  explicit WordModel(const TokenizerDefinition& definition);

  /// Appends the ids of `word`. Bytes and characters that no token covers follow the definition: byte tokens, the
  /// unknown token, or (as in Hugging Face's BPE) nothing. Words of 2 GiB and more are an Error.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

  /// Whether no token joins a space to something before it, so that text may be cut before a space with equal result.
  bool separates_at_spaces() const { return separates_at_spaces_; }

 private:
  struct Symbol {
    std::uint32_t begin = 0, end = 0;  // in the word; empty once merged away
    std::int32_t previous = -1, next = -1;
    std::int32_t id = -1;
    bool frozen = false;  // a user-defined symbol
  };
  struct RankedMerge {
    std::uint32_t rank;
    std::int32_t result;
  };

  std::int32_t find(std::string_view piece) const;
  bool append_fallback(std::string_view character, std::vector<std::int32_t>& ids) const;
  std::size_t user_defined_length(std::string_view word, std::size_t at) const;
  std::vector<Symbol> initial_symbols(std::string_view word) const;
  template <typename Candidate>
  void merge(std::vector<Symbol>& symbols, const Candidate& candidate) const;
  void encode_ranked(std::string_view word, std::vector<std::int32_t>& ids) const;
  void encode_scored(std::string_view word, std::vector<std::int32_t>& ids) const;
  void encode_unigram(std::string_view word, std::vector<std::int32_t>& ids) const;
  void append_symbol(std::string_view text, std::int32_t id, std::vector<std::int32_t>& ids) const;
  void append_unused(std::int32_t id, std::vector<std::int32_t>& ids, int depth) const;

  const TokenizerDefinition& definition_;
  std::unordered_map<std::string_view, std::int32_t> ids_;   // of the pieces that segmentation may produce
  std::array<std::int32_t, 256> byte_ids_;                   // `byte` tokens, or single-byte pieces when byte-level
  std::unordered_map<std::uint64_t, RankedMerge> ranks_;     // left << 32 | right
  std::array<std::vector<std::int32_t>, 256> user_defined_;  // by first byte, longest first
  std::size_t longest_piece_ = 0;
  float lowest_score_ = 0, highest_score_ = 0;
  bool separates_at_spaces_ = false;
};

}  // namespace scalebits
