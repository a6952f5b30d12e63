// Hugging Face's tokenizer.json: a BPE model with its own normalizer, pre-tokenizer and decoder, each a tree of steps.
// Steps that are not known are errors that list the known ones; truncation and padding are not part of a tokenizer.
#include "core/mapped_file.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary_builder.h"

namespace scalebits {
namespace {

class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : where_(path.string()) {
    const auto file = MappedFile::open(path);
    file_ = parse_json_sorted({reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()}, where_);
  }

  TokenizerDefinition read() {
    nlohmann::json vocabulary, merges;
    if (file_.is_object() && file_.contains("model") && file_["model"].is_object()) {
      vocabulary = take(file_["model"], "vocab");
      merges = take(file_["model"], "merges");
    }
    json_ = as_ordered(file_, where_);
    const auto model = json_value<Json>(json_, "model", where_);
    read_model(model);
    read_normalizer(child(json_, "normalizer"));
    read_pre_tokenizer(child(json_, "pre_tokenizer"));
    read_decoder(child(json_, "decoder"));

    const Spelling spelling = definition_.byte_level ? Spelling::byte_level
                              : escapes_spaces_      ? Spelling::sentencepiece
                                                     : Spelling::plain;
    VocabularyBuilder builder(std::move(definition_), spelling, where_);
    if (!vocabulary.is_object())
      fail_input("{}: model.vocab must be an object, found {}", where_, vocabulary.type_name());
    const Json added = child(json_, "added_tokens");
    builder.expect_tokens(vocabulary.size() + added.size());
    for (const auto& [text, id] : vocabulary.items()) {
      if (!id.is_number_integer()) fail_input("{}: the id of token '{}' is no integer", where_, text);
      builder.add_token(id.get<std::int64_t>(), text, TokenKind::normal);
    }
    if (!merges.is_array()) fail_input("{}: model.merges must be a list, found {}", where_, merges.type_name());
    for (const auto& merge : merges) {
      if (merge.is_string())
        builder.add_merge(merge.get_ref<const std::string&>());
      else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
        builder.add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
      else
        fail_input("{}: a merge must be \"left right\" or [left, right], found {}", where_, merge.dump().substr(0, 80));
    }
    for (const Json& token : added)
      builder.add_added_token(added_token_from_json(token, json_value<std::int64_t>(token, "id", where_), where_),
                              json_value<std::string>(token, "content", where_));
    if (const Json unknown = child(model, "unk_token"); !unknown.is_null())
      builder.definition().unknown = builder.id_of(json_value<std::string>(model, "unk_token", where_), "unk_token");
    definition_ = builder.finish();
    read_post_processor(child(json_, "post_processor"));
    restore_digit_splitting(definition_);
    return std::move(definition_);
  }

 private:
  static nlohmann::json take(nlohmann::json& object, const char* key) {
    nlohmann::json value;
    if (object.contains(key)) std::swap(value, object[key]);
    return value;
  }
  static Json child(const Json& object, const char* key) {
    return object.is_object() && object.contains(key) ? object[key] : Json();
  }
  std::string type_of(const Json& step) const { return json_value<std::string>(step, "type", where_); }

  void read_model(const Json& model) {
    // Files of before 2020 do not name the type.
    const auto type = json_value_or<std::string>(model, "type", "BPE", where_);
    if (type != "BPE") fail_input("{}: unknown model type '{}'; known is BPE", where_, type);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!json_value_or<std::string>(model, key, "", where_).empty())
        fail_input("{}: model.{} is not known", where_, key);
    if (json_value_or<double>(model, "dropout", 0, where_) != 0)
      fail_input("{}: model.dropout must be 0 or null", where_);
    const auto flag = [&](const char* key) { return json_value_or<bool>(model, key, false, where_); };
    definition_.model = TokenizerDefinition::Model::ranked_merges;
    definition_.byte_fallback = flag("byte_fallback");
    definition_.fuse_unknown = flag("fuse_unk");
    definition_.ignore_merges = flag("ignore_merges");
  }

  void read_normalizer(const Json& step) {
    if (step.is_null()) return;
    using Kind = NormalizeStep::Kind;
    const std::string type = type_of(step);
    if (type == "Sequence") {
      for (const Json& each : json_value<Json>(step, "normalizers", where_)) read_normalizer(each);
    } else if (type == "NFC")
      definition_.normalize.push_back({Kind::nfc});
    else if (type == "NFD")
      definition_.normalize.push_back({Kind::nfd});
    else if (type == "NFKC")
      definition_.normalize.push_back({Kind::nfkc});
    else if (type == "NFKD")
      definition_.normalize.push_back({Kind::nfkd});
    else if (type == "Prepend") {
      auto text = json_value<std::string>(step, "prepend", where_);
      definition_.normalize.push_back({Kind::prepend, "", text == kSpaceSymbol ? " " : std::move(text)});
    } else if (type == "Replace") {
      const auto from = json_value<std::string>(json_value<Json>(step, "pattern", where_), "String", where_);
      const auto to = json_value<std::string>(step, "content", where_);
      if (from == " " && to == kSpaceSymbol)
        escape_spaces();
      else
        definition_.normalize.push_back({Kind::replace, from, to});
    } else {
      fail_input("{}: unknown normalizer '{}'; known are Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace", where_,
                 type);
    }
  }

  /// Pieces are kept with real spaces, so a literal "▁" in the text becomes one too: they are the same to the file.
  void escape_spaces() {
    if (!escapes_spaces_) definition_.normalize.push_back({NormalizeStep::Kind::replace, kSpaceSymbol, " "});
    escapes_spaces_ = true;
  }

  void read_pre_tokenizer(const Json& step) {
    if (step.is_null()) return;
    const auto flag = [&](const char* key, bool otherwise) {
      return json_value_or<bool>(step, key, otherwise, where_);
    };
    const std::string type = type_of(step);
    if (type == "Sequence") {
      for (const Json& each : json_value<Json>(step, "pretokenizers", where_)) read_pre_tokenizer(each);
    } else if (type == "ByteLevel") {
      definition_.byte_level = true;
      if (flag("add_prefix_space", true)) definition_.split.push_back({.kind = SplitStep::Kind::prefix_space});
      if (flag("use_regex", true)) definition_.split.push_back({.pattern = kGpt2Pattern});
    } else if (type == "Digits") {
      definition_.split.push_back({.pattern = kDigitPattern,
                                   .behavior = flag("individual_digits", false) ? SplitStep::Behavior::isolated
                                                                                : SplitStep::Behavior::contiguous});
    } else if (type == "Split") {
      definition_.split.push_back(
          {.pattern = pattern_of(step), .behavior = behavior_of(step), .invert = flag("invert", false)});
    } else if (type == "Metaspace") {
      read_metaspace(step);
    } else {
      fail_input("{}: unknown pre-tokenizer '{}'; known are Sequence, ByteLevel, Digits, Split, Metaspace", where_,
                 type);
    }
  }

  void read_metaspace(const Json& step) {
    if (json_value_or<std::string>(step, "replacement", kSpaceSymbol, where_) != kSpaceSymbol)
      fail_input("{}: Metaspace must replace a space by U+2581", where_);
    escape_spaces();
    const bool prefix = json_value_or<bool>(step, "add_prefix_space", true, where_);
    const auto scheme = json_value_or<std::string>(step, "prepend_scheme", prefix ? "always" : "never", where_);
    if (scheme == "always")
      definition_.split.push_back({.kind = SplitStep::Kind::prefix_space});
    else if (scheme == "first")
      definition_.split.push_back({.kind = SplitStep::Kind::prefix_space_first});
    else if (scheme != "never")
      fail_input("{}: unknown prepend_scheme '{}'; known are always, first, never", where_, scheme);
    if (json_value_or<bool>(step, "split", true, where_))
      definition_.split.push_back({.pattern = "[ ]", .behavior = SplitStep::Behavior::merged_with_next});
  }

  std::string pattern_of(const Json& step) const {
    const auto pattern = json_value<Json>(step, "pattern", where_);
    if (pattern.is_object() && pattern.contains("String")) {
      const auto text = json_value<std::string>(pattern, "String", where_);
      std::string literal;
      for (const char c : text) {
        if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) literal += '\\';
        literal += c;
      }
      return literal;
    }
    return json_value<std::string>(pattern, "Regex", where_);
  }

  SplitStep::Behavior behavior_of(const Json& step) const {
    using Behavior = SplitStep::Behavior;
    const auto name = json_value<std::string>(step, "behavior", where_);
    if (name == "Isolated") return Behavior::isolated;
    if (name == "Removed") return Behavior::removed;
    if (name == "Contiguous") return Behavior::contiguous;
    if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
    if (name == "MergedWithNext") return Behavior::merged_with_next;
    fail_input(
        "{}: unknown split behavior '{}'; known are Isolated, Removed, Contiguous, MergedWithPrevious, MergedWithNext",
        where_, name);
  }

  void read_decoder(const Json& step) {
    if (step.is_null()) return;
    const std::string type = type_of(step);
    if (type == "Sequence") {
      for (const Json& each : json_value<Json>(step, "decoders", where_)) read_decoder(each);
    } else if (type == "Strip") {
      definition_.drops_leading_space |= json_value<std::string>(step, "content", where_) == " " &&
                                         json_value<std::int64_t>(step, "start", where_) > 0;
    } else if (type == "Metaspace") {
      const bool prefix = json_value_or<bool>(step, "add_prefix_space", true, where_);
      definition_.drops_leading_space |=
          json_value_or<std::string>(step, "prepend_scheme", prefix ? "always" : "never", where_) != "never";
    }
    // Replace, ByteFallback, Fuse, ByteLevel: pieces are raw bytes already.
  }

  void read_post_processor(const Json& step) {
    if (step.is_null()) return;
    const std::string type = type_of(step);
    if (type == "Sequence") {
      for (const Json& each : json_value<Json>(step, "processors", where_)) read_post_processor(each);
    } else if (type == "TemplateProcessing") {
      const auto single = json_value<Json>(step, "single", where_);
      if (!single.is_array() || single.empty() || !single[0].is_object() || !single[0].contains("SpecialToken")) return;
      const auto name = json_value<std::string>(single[0]["SpecialToken"], "id", where_);
      const auto token = json_value<Json>(json_value<Json>(step, "special_tokens", where_), name, where_);
      const auto ids = json_value<std::vector<std::int32_t>>(token, "ids", where_);
      if (ids.size() != 1)
        fail_input("{}: the template's first token '{}' must have one id, found {}", where_, name, ids.size());
      definition_.bos = ids[0];
      definition_.adds_bos = true;
    }
  }

  static constexpr char kSpaceSymbol[] = "▁";
  std::string where_;
  nlohmann::json file_;
  Json json_;
  TokenizerDefinition definition_;
  bool escapes_spaces_ = false;
};

}  // namespace

TokenizerDefinition read_tokenizer_json(const std::filesystem::path& path) { return Reader(path).read(); }

Tokenizer Tokenizer::from_tokenizer_json(const std::filesystem::path& path) {
  return Tokenizer(read_tokenizer_json(path), path.string());
}

}  // namespace scalebits
