// A GGUF file's vocabulary. Its `pre` names the pre-tokenizer; the pattern itself is not in the file, so names are
// looked up in a table and one that is not there is an error.
#include "core/error.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary_builder.h"

namespace scalebits {
namespace {

struct KnownPreTokenizer {
  std::string_view name;
  std::vector<std::string_view> patterns;  // applied in turn, each isolating its matches
  bool nfc = false;
  bool ignore_merges = false;
  bool adds_bos = false;
};

const std::vector<KnownPreTokenizer>& known_pre_tokenizers() {
  static constexpr char kPunctuation[] = R"([\p{P}\$\+<=>\^~\|]+)";
  static const std::vector<KnownPreTokenizer> known = {
      {"gpt-2", {kGpt2Pattern}},
      {"default", {kPunctuation, kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {"llama-bpe", {kLlama3Pattern}, false, true, true},
      {"llama3", {kLlama3Pattern}, false, true, true},
      {"llama-v3", {kLlama3Pattern}, false, true, true},
      {"qwen2", {kQwen2Pattern}, true},
      {"deepseek-r1-qwen", {kQwen2Pattern}, true},
      {"smollm", {kDigitPattern, kGpt2Pattern}},
      {"starcoder", {kDigitPattern, kGpt2Pattern}},
      {"refact", {kDigitPattern, kGpt2Pattern}},
      {"command-r", {kDigitPattern, kGpt2Pattern}, true},
      {"tekken", {kTekkenPattern}, false, true},
  };
  return known;
}

const KnownPreTokenizer& find_pre_tokenizer(const std::string& name, const std::string& where) {
  std::string names;
  for (const KnownPreTokenizer& known : known_pre_tokenizers()) {
    // Files of before the key existed were all split this way.
    if (known.name == (name.empty() ? "default" : name)) return known;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  fail_input("{}: unknown pre-tokenizer '{}' (tokenizer.ggml.pre); known are {}", where, name, names);
}

TokenKind kind_of(std::int32_t type, std::size_t id, const std::string& where) {
  switch (type) {
    case 1: return TokenKind::normal;
    case 2: return TokenKind::unknown;
    case 3: return TokenKind::control;
    case 4: return TokenKind::user_defined;
    case 5: return TokenKind::unused;
    case 6: return TokenKind::byte;
    default: fail_input("{}: token {} has the unknown type {}; known are 1 to 6", where, id, type);
  }
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary, const std::string& where) {
  const std::size_t size = vocabulary.tokens.size();
  const bool byte_level = vocabulary.model == "gpt2";
  if (!byte_level && vocabulary.model != "llama")
    fail_input("{}: unknown tokenizer model '{}' (tokenizer.ggml.model); known are gpt2, llama", where,
               vocabulary.model);
  if (!vocabulary.types.empty() && vocabulary.types.size() != size)
    fail_input("{}: {} tokens but {} token types", where, size, vocabulary.types.size());
  if (!byte_level && vocabulary.scores.size() != size)
    fail_input("{}: {} tokens but {} scores", where, size, vocabulary.scores.size());
  if (byte_level && vocabulary.merges.empty()) fail_input("{}: a gpt2 tokenizer needs merges, found none", where);

  TokenizerDefinition definition;
  definition.byte_level = byte_level;
  const bool space_prefix = vocabulary.add_space_prefix.value_or(!byte_level);
  if (byte_level) {
    const KnownPreTokenizer& pre = find_pre_tokenizer(vocabulary.pre, where);
    if (space_prefix) definition.split.push_back({.kind = SplitStep::Kind::prefix_space});
    for (const std::string_view pattern : pre.patterns) definition.split.push_back({.pattern = std::string(pattern)});
    if (pre.nfc) definition.normalize.push_back({NormalizeStep::Kind::nfc});
    definition.ignore_merges = pre.ignore_merges;
    definition.adds_bos = vocabulary.add_bos.value_or(pre.adds_bos);
  } else {
    definition.model = TokenizerDefinition::Model::scored_merges;
    definition.byte_fallback = definition.fuse_unknown = true;
    definition.drops_leading_space = space_prefix;
    if (space_prefix) definition.normalize.push_back({NormalizeStep::Kind::prepend, "", " "});
    definition.normalize.push_back({NormalizeStep::Kind::replace, "▁", " "});
    definition.adds_bos = vocabulary.add_bos.value_or(true);
    definition.unknown = vocabulary.unk;
  }
  definition.bos = vocabulary.bos;
  definition.eos = vocabulary.eos;
  definition.adds_bos = definition.adds_bos && definition.bos >= 0;

  VocabularyBuilder builder(std::move(definition), byte_level ? Spelling::byte_level : Spelling::sentencepiece, where);
  for (std::size_t id = 0; id < size; ++id) {
    TokenKind kind = vocabulary.types.empty() ? TokenKind::normal : kind_of(vocabulary.types[id], id, where);
    const bool user_defined = byte_level && kind == TokenKind::user_defined;
    if (byte_level && (kind == TokenKind::byte || kind == TokenKind::unused)) kind = TokenKind::unreachable;
    if (user_defined) kind = TokenKind::control;  // its text is literal; add_added_token below makes it an ordinary one
    builder.add_token(static_cast<std::int64_t>(id), vocabulary.tokens[id], kind,
                      byte_level ? 0 : vocabulary.scores[id]);
    if (user_defined) builder.definition().kinds[id] = TokenKind::unreachable;
    if ((kind == TokenKind::control || kind == TokenKind::unknown) && !vocabulary.tokens[id].empty())
      builder.add_added_token({.id = static_cast<std::int32_t>(id), .special = !user_defined}, vocabulary.tokens[id]);
  }
  if (byte_level)
    for (const std::string& merge : vocabulary.merges) builder.add_merge(merge);
  return Tokenizer(builder.finish(), where);
}

}  // namespace scalebits
