// tokenizer: ids equal those of PyPI's tokenizers and sentencepiece (golden.json, written by
// tools/golden/tokenizer_golden.py), text survives a round trip, the stored form is equal to its source, and broken
// files are clear errors. Tests of real vocabularies read ../shared and skip without it.
#include "tokenizer/tokenizer.h"

#include "core/error.h"
#include "core/json.h"
#include "core/random.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/vocabulary_builder.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>

namespace scalebits {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

const fs::path kData = fs::path(SCALEBITS_SOURCE_DIR) / "tests/data/tokenizer";
const fs::path kShared = fs::path(SCALEBITS_SOURCE_DIR) / "../shared/data/tokenizers";

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

fs::path write_bytes(const std::string& name, std::string_view bytes) {
  const fs::path path = fs::path(testing::TempDir()) / ("tokenizer_test_" + name);
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

const Json& golden() {
  static const Json json = read_json_file(kData / "golden.json");
  return json;
}

Tokenizer stored_and_loaded(const Tokenizer& tokenizer) {
  const std::string stored = tokenizer.serialize();
  return Tokenizer::deserialize(std::as_bytes(std::span(stored)), "stored");
}

/// Both the tokenizer and its stored form must give the golden ids of every text.
void expect_golden(const Tokenizer& tokenizer, const std::string& name, EncodeOptions options = {}) {
  const Tokenizer loaded = stored_and_loaded(tokenizer);
  EXPECT_EQ(loaded.serialize(), tokenizer.serialize()) << name;
  const Json& texts = golden()["texts"];
  const Json& ids = golden()["ids"][name];
  ASSERT_EQ(texts.size(), ids.size()) << name;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text, options), ids[i].get<Ids>()) << name << ": " << texts[i].dump();
    EXPECT_EQ(loaded.encode(text, options), ids[i].get<Ids>()) << name << " stored: " << texts[i].dump();
  }
}

/// What it writes for Hugging Face must read back to the same ids.
void expect_same_through_json(const Tokenizer& tokenizer, const std::string& name) {
  const std::string written = tokenizer.to_tokenizer_json();
  ASSERT_NE(written, "") << name;
  const Tokenizer read = Tokenizer::from_tokenizer_json(write_bytes("written.json", written));
  EXPECT_EQ(read.vocab_size(), tokenizer.vocab_size()) << name;
  EXPECT_EQ(read.adds_bos_by_default(), tokenizer.adds_bos_by_default()) << name;
  for (const Json& text : golden()["texts"]) {
    const Ids ids = tokenizer.encode(text.get<std::string>());
    EXPECT_EQ(read.encode(text.get<std::string>()), ids) << name << ": " << text.dump();
    EXPECT_EQ(read.decode(ids), tokenizer.decode(ids)) << name << ": " << text.dump();
  }
}

/// Real vocabularies take up to a second to read: each is read once.
const Tokenizer& shared_tokenizer(const std::string& name) {
  static std::map<std::string, Tokenizer> loaded;
  const auto found = loaded.find(name);
  return found != loaded.end() ? found->second
                               : loaded.emplace(name, *Tokenizer::from_folder(kShared / name)).first->second;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Tokenizer, TokenizerJsonEqualsTheReference) {
  for (const char* name : {"digits.json", "prefix_space.json", "llama3.json", "qwen2.json", "llama2.json"})
    expect_golden(Tokenizer::from_tokenizer_json(kData / name), name);
}

TEST(Tokenizer, SentencePieceEqualsTheReference) {
  // The reference library never reads control tokens out of text.
  for (const char* name : {"bpe.model", "unigram.model"})
    expect_golden(Tokenizer::from_sentencepiece(kData / name), name, {.parse_special = false});
}

TEST(Tokenizer, RealVocabulariesEqualTheReference) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "SKIPPED: " << kShared << " is not there";
  expect_golden(shared_tokenizer("gpt2"), "gpt2");
  expect_golden(shared_tokenizer("smollm2"), "smollm2");
  expect_golden(shared_tokenizer("qwen2.5"), "qwen2.5");
  expect_golden(shared_tokenizer("llama2"), "llama2", {.parse_special = false});
}

TEST(Tokenizer, WritesTokenizerJsonThatReadsBackTheSame) {
  for (const char* name : {"digits", "llama3", "qwen2"})
    expect_same_through_json(Tokenizer::from_tokenizer_json(kData / (std::string(name) + ".json")), name);
  EXPECT_EQ(Tokenizer::from_sentencepiece(kData / "bpe.model").to_tokenizer_json(), "") << "has user-defined symbols";
  EXPECT_EQ(Tokenizer::from_sentencepiece(kData / "unigram.model").to_tokenizer_json(), "");
}

TEST(Tokenizer, LostDigitSplittingIsRestoredAndSaidSo) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "SKIPPED: " << kShared << " is not there";
  const Tokenizer& smollm2 = shared_tokenizer("smollm2");
  EXPECT_TRUE(contains(smollm2.remark(), "digits"));
  // Two spaces before a digit tell: split first, they are one token; otherwise the second goes with the digit.
  EXPECT_EQ(smollm2.encode("a  1").size(), 3u);
  // Vocabularies that do join digits, or are too small to tell, are left alone.
  EXPECT_EQ(shared_tokenizer("gpt2").remark(), "");
  EXPECT_EQ(Tokenizer::from_tokenizer_json(kData / "qwen2.json").remark(), "");
}

TEST(Tokenizer, DigitSplittingIsRestoredBesideGpt2sPatternOnly) {
  TokenizerDefinition definition{.byte_level = true, .pieces = {"a"}};
  definition.merges.resize(kMergesThatTell);
  const auto steps_with = [&](std::vector<SplitStep> split) {
    definition.split = std::move(split);
    restore_digit_splitting(definition);
    return definition.split.size();
  };
  EXPECT_EQ(steps_with({{.kind = SplitStep::Kind::prefix_space}, {.pattern = kGpt2Pattern}}), 3u);
  EXPECT_EQ(definition.split[0].pattern, kDigitPattern);
  // A digit by itself is one of several ways of these patterns: split off before, it would tear white space from it.
  for (const char* pattern : {kTekkenPattern, kQwen2Pattern, kLlama3Pattern})
    EXPECT_EQ(steps_with({{.pattern = pattern}}), 1u) << pattern;
  EXPECT_EQ(steps_with({{.pattern = kDigitPattern}, {.pattern = kGpt2Pattern}}), 2u);
}

TEST(Tokenizer, FolderNamesBeginningAndEnd) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "SKIPPED: " << kShared << " is not there";
  const Tokenizer& smollm2 = shared_tokenizer("smollm2");
  EXPECT_EQ(smollm2.vocab_size(), 49152);
  EXPECT_EQ(smollm2.bos(), 1);
  EXPECT_EQ(smollm2.eos(), 2);
  EXPECT_FALSE(smollm2.adds_bos_by_default());
  EXPECT_TRUE(shared_tokenizer("llama2").adds_bos_by_default());
  EXPECT_EQ(shared_tokenizer("qwen2.5").bos(), std::nullopt);
}

TEST(Tokenizer, StoredFormIsSmall) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "SKIPPED: " << kShared << " is not there";
  // 48,900 merges of two 16-bit ids are 195,600 bytes; the stored form must stay below that bare table.
  EXPECT_LT(shared_tokenizer("smollm2").serialize().size(), 195'600u);
}

TEST(Tokenizer, OptsConfigurationAloneNamesItsSpecialTokens) {
  const Tokenizer tokenizer = *Tokenizer::from_folder(kData / "opt");
  expect_golden(tokenizer, "opt");
  EXPECT_TRUE(tokenizer.adds_bos_by_default());
  EXPECT_EQ(tokenizer.bos(), 2);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.encode("</s>", {.add_bos = true}), (Ids{2, 2}));
  EXPECT_GT(tokenizer.encode("</s>", {.parse_special = false}).size(), 1u);
  EXPECT_EQ(tokenizer.decode(Ids{2, 1}, {.special_text = false}), "");
}

TEST(Tokenizer, TemplateGivesTheBeginningToken) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "llama3.json");
  EXPECT_TRUE(tokenizer.adds_bos_by_default());
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.encode("a", {.add_bos = true}).front(), 1);
  EXPECT_EQ(tokenizer.encode("", {.add_bos = true}), Ids{1});
  EXPECT_THROW(Tokenizer::from_tokenizer_json(kData / "qwen2.json").encode("a", {.add_bos = true}), Error);
}

TEST(Tokenizer, SpecialTokensAreReadFromTextOnlyWhenAsked) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "digits.json");
  EXPECT_EQ(tokenizer.encode("<|im_end|>"), Ids{2});
  const Ids letters = tokenizer.encode("<|im_end|>", {.parse_special = false});
  EXPECT_GT(letters.size(), 1u);
  EXPECT_EQ(tokenizer.decode(letters), "<|im_end|>");
  EXPECT_EQ(tokenizer.decode(Ids{2}), "<|im_end|>");
  EXPECT_EQ(tokenizer.decode(Ids{2}, {.special_text = false}), "");
  EXPECT_TRUE(tokenizer.is_special(2));
  EXPECT_FALSE(tokenizer.is_special(letters[0]));
}

TEST(Tokenizer, EveryTextAndEveryByteSurvives) {
  const Tokenizer byte_level = Tokenizer::from_tokenizer_json(kData / "digits.json");
  const Tokenizer fallback = Tokenizer::from_sentencepiece(kData / "bpe.model");
  std::vector<std::string> texts;
  for (const Json& text : golden()["texts"])
    // "<tool>" swallows the spaces beside it, by its definition.
    if (!contains(text.get<std::string>(), "<tool>")) texts.push_back(text.get<std::string>());
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  texts.insert(texts.end(), {all, all + all, std::string("\0", 1), "\xff", "a\x80 b", "\xe4\xbd", "\xed\xa0\x80",
                             "\xf4\x90\x80\x80", "\xc0\xaf"});
  const CounterRng rng(11);
  for (std::uint64_t i = 0, at = 0; i < 300; ++i) {
    std::string text;
    for (std::uint64_t length = rng.below(at++, 60); length > 0; --length)
      text += static_cast<char>(rng.below(at++, 256));
    texts.push_back(text);
  }
  for (const std::string& text : texts) {
    EXPECT_EQ(byte_level.decode(byte_level.encode(text)), text);
    // U+2581 is SentencePiece's own sign for a space.
    if (!contains(text, "▁")) {
      EXPECT_EQ(fallback.decode(fallback.encode(text, {.parse_special = false})), text);
    }
  }
}

TEST(Tokenizer, IdsOutsideTheVocabularyGiveNothing) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "digits.json");
  EXPECT_EQ(tokenizer.decode(Ids{-1, tokenizer.vocab_size(), 1 << 30}), "");
  EXPECT_THROW(tokenizer.piece(tokenizer.vocab_size()), Error);
  EXPECT_THROW(tokenizer.piece(-1), Error);
}

TEST(Tokenizer, LongWordsTakeNoQuadraticTime) {
  // A quadratic merge of 1 MB would take hours; a minute separates that from a slow machine.
  const auto start = std::chrono::steady_clock::now();
  for (const char* name : {"digits.json", "llama2.json"}) {
    const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / name);
    for (const std::string unit : {"a", "th"}) {
      std::string text;
      for (int i = 0; i < 200'000; ++i) text += unit;
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::minutes(1));
}

TEST(StreamDecoder, GivesWholeCharactersOnly) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "digits.json");
  for (const Json& json : golden()["texts"]) {
    const Ids ids = tokenizer.encode(json.get<std::string>());
    StreamDecoder stream(tokenizer);
    std::string text;
    for (const std::int32_t id : ids) {
      const std::string part = stream.push(id);
      EXPECT_NO_THROW(Json(part).dump()) << "not UTF-8";  // dump() refuses anything else
      text += part;
    }
    EXPECT_EQ(text, tokenizer.decode(ids));
    EXPECT_EQ(stream.finish(), "");
  }
}

TEST(StreamDecoder, ReplacesWhatIsNoCharacter) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "digits.json");
  const auto stream_of = [&](std::string_view bytes) {
    StreamDecoder stream(tokenizer);
    std::string text;
    for (const std::int32_t id : tokenizer.encode(bytes)) text += stream.push(id);
    return text + "|" + stream.finish();
  };
  EXPECT_EQ(stream_of("a\xff z"), "a\xef\xbf\xbd z|");
  EXPECT_EQ(stream_of("\xe4\xbd"), "|\xef\xbf\xbd");  // may still grow, until the end
  EXPECT_EQ(stream_of("\xf0\x9f\x99"), "|\xef\xbf\xbd");
  EXPECT_EQ(stream_of("\xe4\xbd"
                      "a"),
            "\xef\xbf\xbd\xef\xbf\xbd"
            "a|");                                                // the letter settles both
  EXPECT_EQ(stream_of("\xed\xa0"), "\xef\xbf\xbd\xef\xbf\xbd|");  // a surrogate cannot become anything
}

TEST(StreamDecoder, KeepsTheSpaceWhenTheTextGoesOn) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "llama2.json");
  const Ids ids = tokenizer.encode("the dog");
  EXPECT_EQ(tokenizer.decode(ids), "the dog");
  EXPECT_EQ(tokenizer.decode(ids, {.text_start = false}), " the dog");
  StreamDecoder start(tokenizer), middle(tokenizer, {.text_start = false});
  std::string from_start, from_middle;
  for (const std::int32_t id : ids) from_start += start.push(id), from_middle += middle.push(id);
  EXPECT_EQ(from_start, "the dog");
  EXPECT_EQ(from_middle, " the dog");
}

TEST(Tokenizer, DropsASpaceAtTheVeryStartOnly) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "llama2.json");
  const Ids end = tokenizer.encode("</s>");
  ASSERT_TRUE(end.size() == 1 && tokenizer.is_special(end[0]));
  Ids ids = tokenizer.encode("the dog");
  ids.insert(ids.begin(), end[0]);
  for (const bool special_text : {true, false}) {
    const DecodeOptions options{.special_text = special_text};
    const std::string wanted = special_text ? "</s> the dog" : "the dog";  // as tokenizers has it
    EXPECT_EQ(tokenizer.decode(ids, options), wanted);
    StreamDecoder stream(tokenizer, options);
    std::string streamed;
    for (const std::int32_t id : ids) streamed += stream.push(id);
    EXPECT_EQ(streamed, wanted);
  }
}

TEST(Normalizer, EndsWhenATextGrowsWithoutEnd) {
  const std::vector<NormalizeStep> steps(40, {NormalizeStep::Kind::replace, "a", "aa"});
  EXPECT_TRUE(contains(message_of([&] { normalize(steps, "banana"); }), "normalizer makes more than"));
  EXPECT_EQ(normalize(std::span(steps).first(3), "ab"), "aaaaaaaab");
}

/// The GGUF form of a byte-level tokenizer.json, as a converter writes it.
GgufVocabulary gguf_of(const fs::path& tokenizer_json, const std::string& pre) {
  const Json json = read_json_file(tokenizer_json);
  GgufVocabulary vocabulary{.model = "gpt2", .pre = pre};
  std::size_t size = json["model"]["vocab"].size();
  for (const Json& token : json["added_tokens"]) size = std::max(size, token["id"].get<std::size_t>() + 1);
  vocabulary.tokens.resize(size);
  vocabulary.types.assign(size, 1);
  for (const auto& [text, id] : json["model"]["vocab"].items()) vocabulary.tokens[id.get<std::size_t>()] = text;
  for (const Json& token : json["added_tokens"]) {
    vocabulary.tokens[token["id"].get<std::size_t>()] = token["content"];
    vocabulary.types[token["id"].get<std::size_t>()] = token["special"].get<bool>() ? 3 : 4;
  }
  for (const Json& merge : json["model"]["merges"])
    vocabulary.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  vocabulary.bos = 1;
  return vocabulary;
}

TEST(Gguf, PreTokenizerNamesMeanTheirPatterns) {
  const std::pair<const char*, const char*> cases[] = {
      {"digits.json", "smollm"}, {"llama3.json", "llama-bpe"}, {"qwen2.json", "qwen2"}};
  for (const auto& [file, pre] : cases) {
    const Tokenizer json = Tokenizer::from_tokenizer_json(kData / file);
    const Tokenizer gguf = Tokenizer::from_gguf(gguf_of(kData / file, pre), file);
    for (const Json& each : golden()["texts"]) {
      const auto text = each.get<std::string>();
      // GGUF knows no white space or word rules of added tokens.
      if (contains(text, "tool") || contains(text, "word")) continue;
      EXPECT_EQ(gguf.encode(text), json.encode(text)) << pre << ": " << each.dump();
    }
  }
  EXPECT_TRUE(Tokenizer::from_gguf(gguf_of(kData / "llama3.json", "llama-bpe"), "x").adds_bos_by_default());
}

TEST(Gguf, RefusesWhatItDoesNotKnow) {
  const auto message = [](const GgufVocabulary& vocabulary) {
    return message_of([&] { Tokenizer::from_gguf(vocabulary, "some.gguf"); });
  };
  const GgufVocabulary good = gguf_of(kData / "digits.json", "smollm");
  EXPECT_EQ(message(good), "no error");
  const std::string unknown = message(gguf_of(kData / "digits.json", "klingon"));
  EXPECT_TRUE(contains(unknown, "klingon") && contains(unknown, "llama-bpe") && contains(unknown, "some.gguf"))
      << unknown;
  const auto broken = [&](auto&& change) {
    GgufVocabulary vocabulary = good;
    change(vocabulary);
    return message(vocabulary);
  };
  EXPECT_TRUE(contains(broken([](auto& v) { v.model = "bert"; }), "bert"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.types.pop_back(); }), "token types"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.types[5] = 9; }), "type 9"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.merges[0] = "nospace"; }), "nospace"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.merges[0] = "a zzzzz"; }), "zzzzz"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.merges.clear(); }), "merges"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.bos = 1 << 20; }), "beginning-of-text"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.eos = -7; }), "end-of-text"));
  EXPECT_TRUE(contains(broken([](auto& v) { v.model = "llama"; }), "scores"));
  EXPECT_TRUE(contains(broken([](auto& v) { v = GgufVocabulary{.model = "llama"}; }), "empty"));
}

TEST(Gguf, PiecesThatAreNotUtf8HaveNoTokenizerJson) {
  GgufVocabulary vocabulary{.model = "llama", .tokens = {"<unk>", "a"}, .scores = {0, 0}, .types = {2, 1}};
  vocabulary.unk = 0;
  EXPECT_NE(Tokenizer::from_gguf(vocabulary, "some.gguf").to_tokenizer_json(), "");
  vocabulary.tokens[1] = "\xff";
  EXPECT_EQ(Tokenizer::from_gguf(vocabulary, "some.gguf").to_tokenizer_json(), "");
}

TEST(TokenizerJson, BrokenFilesAreClearErrors) {
  const Json good = read_json_file(kData / "digits.json");
  const auto broken = [&](auto&& change) {
    Json json = good;
    change(json);
    const fs::path path = write_bytes("broken.json", json.dump());
    const std::string message = message_of([&] { Tokenizer::from_tokenizer_json(path); });
    EXPECT_TRUE(contains(message, path.string()) || message == "no error") << message;
    return message;
  };
  EXPECT_EQ(broken([](Json&) {}), "no error");
  EXPECT_TRUE(contains(broken([](Json& j) { j = Json::array(); }), "object"));
  EXPECT_TRUE(contains(broken([](Json& j) { j.erase("model"); }), "model"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["type"] = "WordPiece"; }), "WordPiece"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["vocab"] = 3; }), "vocab"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["vocab"]["a"] = "x"; }), "integer"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["vocab"]["a"] = -1; }), "-1"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["vocab"]["a"] = 1ll << 40; }), "1099511627776"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["vocab"]["new"] = (1 << 24) - 1; }), "too large"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["vocab"]["new"] = 5; }), "twice"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["merges"][0] = 7; }), "merge"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["merges"][0] = {"q", "zzz"}; }), "zzz"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["pre_tokenizer"]["type"] = "Klingon"; }), "Klingon"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["normalizer"] = {{"type", "Shout"}}; }), "Shout"));
  EXPECT_TRUE(contains(broken([](Json& j) {
                         j["normalizer"] = {{"type", "Sequence"},
                                            {"normalizers", std::vector<Json>(257, Json{{"type", "NFC"}})}};
                       }),
                       "at most 256 steps"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["added_tokens"][0]["id"] = -3; }), "-3"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["added_tokens"][0]["content"] = ""; }), "no text"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["added_tokens"][0]["content"] = "other"; }), "other"));
  EXPECT_TRUE(contains(broken([](Json& j) { j["model"]["unk_token"] = "<missing>"; }), "<missing>"));
  EXPECT_TRUE(contains(broken([](Json& j) {
                         j["pre_tokenizer"] = {
                             {"type", "Split"}, {"pattern", {{"Regex", "(["}}}, {"behavior", "Isolated"}};
                       }),
                       "pattern"));
  const std::string text = good.dump();
  for (const std::size_t length : {std::size_t{1}, text.size() / 2, text.size() - 1})
    EXPECT_THROW(Tokenizer::from_tokenizer_json(write_bytes("cut.json", text.substr(0, length))), Error) << length;
  EXPECT_THROW(Tokenizer::from_tokenizer_json(kData / "missing.json"), Error);
  EXPECT_FALSE(Tokenizer::from_folder(kData).has_value());
}

TEST(SentencePiece, BrokenFilesAreClearErrorsOrStillModels) {
  for (const char* name : {"bpe.model", "unigram.model"}) {
    const std::string good = read_bytes(kData / name);
    const auto load = [](std::string_view bytes) {
      const Tokenizer tokenizer = Tokenizer::from_sentencepiece(write_bytes("broken.model", bytes));
      tokenizer.decode(tokenizer.encode("the quick ½ 你 brown\xff fox"));
    };
    EXPECT_NO_THROW(load(good));
    EXPECT_THROW(load("hello, this is no model"), Error);
    // Flipped bits and cuts may leave a readable model; they must never do anything but load or throw Error.
    const CounterRng rng(5);
    int refused = 0;
    for (std::uint64_t i = 0; i < 200; ++i) {
      std::string bytes = good;
      if (i % 4 == 0)
        bytes.resize(rng.below(3 * i, bytes.size()));
      else
        bytes[rng.below(3 * i, bytes.size())] ^= static_cast<char>(1 << rng.below(3 * i + 1, 8));
      try {
        load(bytes);
      } catch (const Error&) {
        ++refused;
      }
    }
    EXPECT_GT(refused, 40);
  }
}

TEST(Stored, BrokenBytesAreClearErrors) {
  const std::string good = Tokenizer::from_tokenizer_json(kData / "llama3.json").serialize();
  const auto load = [](std::string_view bytes) {
    Tokenizer::deserialize(std::as_bytes(std::span(bytes)), "artifact.st");
  };
  EXPECT_NO_THROW(load(good));
  EXPECT_TRUE(contains(message_of([&] { load("nonsense"); }), "artifact.st"));
  EXPECT_TRUE(contains(message_of([&] { load("SBTK\x09"); }), "version"));
  EXPECT_TRUE(contains(message_of([&] {
                         load(
                             "SBTK\x01\xff\xff\xff\xff\xff\xff\xff\x7f"
                             "abc");
                       }),
                       "claims"));
  // 17 million tokens of no text, in a few bytes: refused before there is memory for them.
  std::string body("\0\0\0\0\0\xc0\xcc\x8d\x08", 9), stored = "SBTK\x01";
  body.resize((std::size_t{1} << 24) + (std::size_t{1} << 20));
  for (std::size_t rest = body.size(); rest > 0; rest >>= 7)
    stored += static_cast<char>((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
  uLongf packed_bytes = compressBound(body.size());
  std::string packed(packed_bytes, '\0');
  ASSERT_EQ(compress(reinterpret_cast<Bytef*>(packed.data()), &packed_bytes,
                     reinterpret_cast<const Bytef*>(body.data()), body.size()),
            Z_OK);
  EXPECT_TRUE(contains(message_of([&] { load(stored + packed.substr(0, packed_bytes)); }), "at most 16777216 tokens"));
  EXPECT_THROW(load(good + "x"), Error);
  for (std::size_t length = 0; length < good.size(); length += 7)
    EXPECT_THROW(load(good.substr(0, length)), Error) << length;
  // zlib's own checksum finds every flipped bit but those that fill up its last byte, which change nothing.
  for (std::size_t i = 5; i < good.size(); i += 11) {
    std::string bytes = good;
    bytes[i] ^= 0x10;
    try {
      EXPECT_EQ(Tokenizer::deserialize(std::as_bytes(std::span(bytes)), "x").serialize(), good) << i;
    } catch (const Error&) {
    }
  }
}

/// Reads "text, separator line, text …", and one line of ids for each.
void expect_vectors(const Tokenizer& tokenizer, const std::string& name) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::string inputs = read_bytes(kShared / "gguf_vocab" / (name + ".inp"));
  std::istringstream outputs(read_bytes(kShared / "gguf_vocab" / (name + ".out")));
  int compared = 0;
  for (std::size_t end; (end = inputs.find(separator)) != std::string::npos; inputs.erase(0, end + separator.size())) {
    std::string line;
    ASSERT_TRUE(std::getline(outputs, line));
    std::istringstream numbers(line);
    const Ids ids{std::istream_iterator<std::int32_t>(numbers), {}};
    EXPECT_EQ(tokenizer.encode(inputs.substr(0, end)), ids) << name << ": " << inputs.substr(0, end);
    ++compared;
  }
  EXPECT_GT(compared, 40);
}

TEST(Vectors, PublishedOnesAreMet) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "SKIPPED: " << kShared << " is not there";
  // The same vocabularies as the GGUF files that the vectors lie beside.
  expect_vectors(shared_tokenizer("gpt2"), "ggml-vocab-gpt-2.gguf");
  expect_vectors(shared_tokenizer("llama2"), "ggml-vocab-llama-spm.gguf");
}

TEST(Vectors, RealVocabulariesReadBackTheSameFromTheirTokenizerJson) {
  if (!fs::exists(kShared)) GTEST_SKIP() << "SKIPPED: " << kShared << " is not there";
  for (const char* name : {"gpt2", "smollm2", "qwen2.5"}) expect_same_through_json(shared_tokenizer(name), name);
  expect_same_through_json(Tokenizer::from_sentencepiece(kShared / "llama2/tokenizer.model"), "llama2");
}

}  // namespace
}  // namespace scalebits
