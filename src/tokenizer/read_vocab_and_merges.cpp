// GPT-2's older form: vocab.json, merges.txt and a tokenizer_config.json whose class names the pre-tokenizer.
// And the choice among the forms that a folder may hold.
#include "core/mapped_file.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary_builder.h"

#include <charconv>

namespace scalebits {
namespace {

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

}  // namespace

TokenizerDefinition read_vocab_and_merges(const std::filesystem::path& vocab_json,
                                          const std::filesystem::path& merges_txt,
                                          const std::filesystem::path& tokenizer_config_json) {
  const std::string where = vocab_json.string(), config_where = tokenizer_config_json.string();
  const Json config = read_json_file(tokenizer_config_json);
  TokenizerDefinition definition;
  definition.byte_level = true;
  const auto tokenizer_class = json_value<std::string>(config, "tokenizer_class", config_where);
  if (tokenizer_class.starts_with("Qwen2Tokenizer")) {
    definition.normalize.push_back({NormalizeStep::Kind::nfc});
    definition.split.push_back({.pattern = kQwen2Pattern});
  } else if (tokenizer_class.starts_with("GPT2Tokenizer")) {
    definition.split.push_back({.pattern = kGpt2Pattern});
  } else {
    fail_input(
        "{}: tokenizer_class '{}' does not tell how vocab.json and merges.txt split text; known are Qwen2Tokenizer, "
        "GPT2Tokenizer",
        config_where, tokenizer_class);
  }
  if (json_value_or<bool>(config, "add_prefix_space", false, config_where))
    definition.split.insert(definition.split.begin(), {.kind = SplitStep::Kind::prefix_space});

  VocabularyBuilder builder(std::move(definition), Spelling::byte_level, where);
  const auto vocabulary = parse_json_sorted(text_of(*MappedFile::open(vocab_json)), where);
  if (!vocabulary.is_object())
    fail_input("{}: wanted an object of tokens and ids, found {}", where, vocabulary.type_name());
  const auto added = json_value_or<Json>(config, "added_tokens_decoder", Json::object(), config_where);
  builder.expect_tokens(vocabulary.size() + added.size());
  for (const auto& [text, id] : vocabulary.items()) {
    if (!id.is_number_integer()) fail_input("{}: the id of token '{}' is no integer", where, text);
    builder.add_token(id.get<std::int64_t>(), text, TokenKind::normal);
  }
  const auto merges = MappedFile::open(merges_txt);
  bool first = true;
  for (std::string_view rest = text_of(*merges); !rest.empty(); first = false) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(first && line.starts_with("#version"))) builder.add_merge(line);
  }
  for (const auto& [key, token] : added.items()) {
    std::int64_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size())
      fail_input("{}: added_tokens_decoder has the key '{}', which is no token id", config_where, key);
    builder.add_added_token(added_token_from_json(token, id, config_where),
                            json_value<std::string>(token, "content", config_where));
  }
  builder.add_named_tokens(config);
  definition = builder.finish();
  restore_digit_splitting(definition);
  apply_tokenizer_config(definition, config, config_where);
  return definition;
}

Tokenizer Tokenizer::from_vocab_and_merges(const std::filesystem::path& vocab_json,
                                           const std::filesystem::path& merges_txt,
                                           const std::filesystem::path& tokenizer_config_json) {
  return Tokenizer(read_vocab_and_merges(vocab_json, merges_txt, tokenizer_config_json), vocab_json.string());
}

std::optional<Tokenizer> Tokenizer::from_folder(const std::filesystem::path& folder) {
  const auto path = [&](const char* name) { return folder / name; };
  const auto exists = [&](const char* name) { return std::filesystem::exists(path(name)); };
  const bool json = exists("tokenizer.json"), sentencepiece = exists("tokenizer.model");
  if (!json && exists("vocab.json") && exists("merges.txt"))
    return from_vocab_and_merges(path("vocab.json"), path("merges.txt"), path("tokenizer_config.json"));
  if (!json && !sentencepiece) return std::nullopt;
  const auto source = path(json ? "tokenizer.json" : "tokenizer.model");
  TokenizerDefinition definition = json ? read_tokenizer_json(source) : read_sentencepiece(source);
  if (exists("tokenizer_config.json")) {
    const auto config = path("tokenizer_config.json");
    apply_tokenizer_config(definition, read_json_file(config), config.string());
  }
  return Tokenizer(std::move(definition), source.string());
}

}  // namespace scalebits
