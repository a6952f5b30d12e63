// What a tokenizer is, apart from where it was read: a plain value that readers fill, the engine runs and
// serialize() stores. Text goes through: special tokens cut out → normalize → split → word model.
// Subtle rule: pieces are the raw bytes they stand for. GPT-2's printable alphabet, SentencePiece's "▁" and "<0x0A>"
// are undone by the readers, so the engine never sees them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace scalebits {

enum class TokenKind : std::uint8_t {
  normal,
  unknown,
  control,       // special; produced only when cut out of the text by name
  user_defined,  // SentencePiece: always one symbol where its text occurs
  byte,          // stands for one byte that no other token covers
  unused,        // SentencePiece: may be merged through, but not be a result
  unreachable,   // has an id and a text, but the word model never produces it
};
constexpr int kTokenKinds = 7;

struct Merge {
  std::int32_t left = 0, right = 0, result = 0;
  bool operator==(const Merge&) const = default;
};

/// A token that is cut out of the text before anything else. Its content is its piece.
struct AddedToken {
  std::int32_t id = 0;
  bool special = false;
  bool left_strip = false, right_strip = false;  // swallows white space beside it
  bool single_word = false;                      // only where no word character touches it
  bool normalized = false;                       // looked for in the normalised text, not in the raw one
  bool operator==(const AddedToken&) const = default;
};

struct NormalizeStep {
  enum class Kind : std::uint8_t { nfc, nfd, nfkc, nfkd, prepend, replace, charsmap, collapse_spaces };
  Kind kind = Kind::nfc;
  std::string from, to;  // prepend: to; replace: from → to; charsmap: from = SentencePiece's compiled map
  bool operator==(const NormalizeStep&) const = default;
};
constexpr int kNormalizeKinds = 8;

struct SplitStep {
  enum class Kind : std::uint8_t { regex, prefix_space, prefix_space_first };
  enum class Behavior : std::uint8_t { isolated, removed, contiguous, merged_with_previous, merged_with_next };
  Kind kind = Kind::regex;  // prefix_space: a space before each part that lacks one; _first: only at the text's start
  std::string pattern;
  Behavior behavior = Behavior::isolated;
  bool invert = false;  // the pattern describes the separators' opposite
  bool operator==(const SplitStep&) const = default;
};
constexpr int kSplitKinds = 3, kSplitBehaviors = 5;

struct TokenizerDefinition {
  enum class Model : std::uint8_t { ranked_merges, scored_merges, unigram };
  Model model = Model::ranked_merges;
  bool byte_level = false;     // symbols are bytes; otherwise characters
  bool byte_fallback = false;  // an unknown character becomes its `byte` tokens
  bool fuse_unknown = false;   // a run of unknown characters is one unknown token
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool adds_bos = false;
  bool drops_leading_space = false;  // decoding drops one space at the start of a text
  std::int32_t bos = -1, eos = -1, unknown = -1;

  std::vector<std::string> pieces;  // by id
  std::vector<TokenKind> kinds;     // by id
  std::vector<float> scores;        // by id; empty for ranked_merges
  std::vector<Merge> merges;        // by rank; empty unless ranked_merges
  std::vector<AddedToken> added;
  std::vector<NormalizeStep> normalize;
  std::vector<SplitStep> split;

  std::string remark;  // see Tokenizer::remark(); not stored
};
constexpr int kModels = 3;

/// Ids are stored in at most three bytes.
constexpr std::int32_t kMaxVocabulary = 1 << 24;
constexpr std::size_t kMaxPieceBytes = 65535;
/// Of `normalize` and of `split`.
constexpr std::size_t kMaxTextSteps = 256;

/// Tokenizer::to_tokenizer_json().
std::string tokenizer_json(const TokenizerDefinition& definition);

/// Tokenizer::serialize().
std::string serialize_definition(const TokenizerDefinition& definition);

}  // namespace scalebits
