// Text to token ids and back, exactly as the model's own tokenizer does it. Every source (Hugging Face tokenizer.json,
// vocab + merges, SentencePiece, GGUF) is read into one definition (definition.h) that one engine runs.
// Subtle rule: text is bytes. Valid UTF-8 gives the ids of PyPI's `tokenizers` and `sentencepiece`; bytes that are not
// UTF-8 are never an error: a byte-level or byte-fallback vocabulary encodes them one by one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

struct TokenizerDefinition;

/// The `tokenizer.ggml.*` keys of a GGUF file. Ids are -1 when the key is absent.
struct GgufVocabulary {
  std::string model;  // "gpt2": byte-level BPE with merges; "llama": SentencePiece pieces with scores
  std::string pre;    // tokenizer.ggml.pre, which names the pre-tokenizer of a "gpt2" model
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;  // SentencePiece's numbers: 1 normal, 2 unknown, 3 control, 4 user, 5 unused, 6 byte
  std::vector<std::string> merges;
  std::int32_t bos = -1, eos = -1, unk = -1;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

struct EncodeOptions {
  bool add_bos = false;       // put bos() in front; an Error when the tokenizer has none
  bool parse_special = true;  // "<|endoftext|>" in the text becomes that token, not its letters
};

struct DecodeOptions {
  bool special_text = true;  // special tokens give their text; false: nothing
  bool text_start = true;    // the ids begin a text: the space that SentencePiece put before the first word is dropped
};

/// Immutable and cheap to copy; all members may be called from several threads at once.
class Tokenizer {
 public:
  /// All readers throw Error(bad_input) naming the file (or `where`) and what is wrong or not known.
  /// tokenizer.json with a BPE model, byte-level or with byte fallback. `truncation` and `padding` are ignored.
  static Tokenizer from_tokenizer_json(const std::filesystem::path& path);
  /// GPT-2's older form. The pre-tokenizer is named by the configuration's `tokenizer_class`.
  static Tokenizer from_vocab_and_merges(const std::filesystem::path& vocab_json,
                                         const std::filesystem::path& merges_txt,
                                         const std::filesystem::path& tokenizer_config_json);
  /// SentencePiece's tokenizer.model, BPE or unigram.
  static Tokenizer from_sentencepiece(const std::filesystem::path& path);
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary, const std::string& where);
  /// tokenizer.json, else vocab.json + merges.txt, else tokenizer.model; beginning and end tokens from
  /// tokenizer_config.json when there is one. nullopt when the folder holds none of them.
  static std::optional<Tokenizer> from_folder(const std::filesystem::path& folder);

  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  /// The bytes the ids stand for. Ids outside the vocabulary (rows that pad an embedding) give nothing.
  std::string decode(std::span<const std::int32_t> ids, DecodeOptions options = {}) const;

  /// One more than the highest id; a model's embedding may have more rows.
  std::int32_t vocab_size() const;
  std::optional<std::int32_t> bos() const;
  std::optional<std::int32_t> eos() const;
  /// What an empty text begins with: bos(), else eos(), which stands between documents; nullopt when there is neither.
  std::optional<std::int32_t> start_token() const { return bos() ? bos() : eos(); }
  /// Whether the source puts bos() before every text.
  bool adds_bos_by_default() const;
  /// The raw bytes a token stands for; a view that lives as long as any copy of this tokenizer.
  std::string_view piece(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  bool drops_leading_space() const;
  /// What the reader had to decide by itself, as a sentence for the user; empty when nothing.
  const std::string& remark() const;

  /// The compact form kept inside an artifact: deterministic, holds all but remark().
  std::string serialize() const;
  /// The same tokenizer as the text of Hugging Face's tokenizer.json; empty when that format has no like for it
  /// (unigram models, compiled character maps, SentencePiece's user-defined symbols,
  /// pieces that are not UTF-8).
  std::string to_tokenizer_json() const;
  /// Trusts nothing: any malformed input is an Error(bad_input) naming `where`.
  static Tokenizer deserialize(std::span<const std::byte> bytes, const std::string& where);

  /// Validates the definition (Error naming `where`) and builds the look-up tables.
  explicit Tokenizer(TokenizerDefinition definition, const std::string& where);

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

/// Decodes ids one by one, handing out whole UTF-8 characters only. Bytes that can no longer become a character
/// come out as U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, DecodeOptions options = {});
  /// The characters that `id` completes; may be empty.
  std::string push(std::int32_t id);
  /// What is left: U+FFFD when the text ends inside a character.
  std::string finish();

 private:
  std::string take_whole_characters(bool at_end);
  Tokenizer tokenizer_;
  DecodeOptions options_;
  std::string pending_;
};

}  // namespace scalebits
