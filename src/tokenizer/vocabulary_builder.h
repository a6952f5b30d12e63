// What the readers share: collecting tokens and merges as a file spells them, and turning them into raw bytes.
#pragma once

#include "core/json.h"
#include "tokenizer/definition.h"

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace scalebits {

/// How a file spells the bytes of a token.
enum class Spelling {
  byte_level,     // GPT-2's alphabet: one printable character per byte, "Ġ" is a space
  sentencepiece,  // "▁" is a space, "<0x0A>" a byte
  plain
};

class VocabularyBuilder {
 public:
  /// `definition` holds all but the vocabulary; `where` names the source in errors.
  VocabularyBuilder(TokenizerDefinition definition, Spelling spelling, std::string where);

  TokenizerDefinition& definition() { return definition_; }
  /// How many there will be, where a source gives ids by itself: one far beyond would take memory for all below it.
  void expect_tokens(std::size_t count) { expected_ = count; }
  /// `text` as the file spells it. An id given twice is an Error.
  void add_token(std::int64_t id, const std::string& text, TokenKind kind, float score = 0);
  /// `content` is literal text. Names an existing token of that id (whose text must agree) or makes one.
  void add_added_token(AddedToken token, const std::string& content);
  /// Makes the tokens that a tokenizer_config.json names as beginning, end, unknown or padding special added ones,
  /// unless they are added already or not in the vocabulary: older files list them nowhere else.
  void add_named_tokens(const Json& config);
  /// Parts and their concatenation must be tokens.
  void add_merge(std::string_view left, std::string_view right);
  /// "left right".
  void add_merge(std::string_view line);
  /// Id of a token by its spelling; Error naming `what` when there is none.
  std::int32_t id_of(const std::string& text, const char* what) const;
  TokenizerDefinition finish();

 private:
  void grow_to(std::int64_t id);
  TokenizerDefinition definition_;
  Spelling spelling_;
  std::string where_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<bool> given_;
  std::optional<std::size_t> expected_;
};

/// These bytes in GPT-2's alphabet.
std::string byte_level_text(std::string_view bytes);

/// A tokenizer.json that was saved again by another program may have lost its step that splits digits one by one
/// (SmolLM2's did). The vocabulary still tells: byte-level BPE learned on ordinary text with undivided numbers always
/// merges digits with each other and with the space before them. So: when at least kMergesThatTell merges hold none
/// of that, and `split` knows no pattern but GPT-2's (another one is whole and says itself what it does with numbers),
/// the step is put in front and the definition's remark says so.
void restore_digit_splitting(TokenizerDefinition& definition);
constexpr std::size_t kMergesThatTell = 10'000;

/// Beginning and end tokens, and whether the beginning is added, from a tokenizer_config.json.
void apply_tokenizer_config(TokenizerDefinition& definition, const Json& config, const std::string& where);

/// An added token's flags, as tokenizer.json and tokenizer_config.json both write them.
AddedToken added_token_from_json(const Json& json, std::int64_t id, const std::string& where);

// The readers proper; Tokenizer's factory functions are these.
TokenizerDefinition read_tokenizer_json(const std::filesystem::path& path);
TokenizerDefinition read_vocab_and_merges(const std::filesystem::path& vocab_json,
                                          const std::filesystem::path& merges_txt,
                                          const std::filesystem::path& tokenizer_config_json);
TokenizerDefinition read_sentencepiece(const std::filesystem::path& path);

}  // namespace scalebits
