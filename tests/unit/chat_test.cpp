// Contract of src/chat: templates and pieces of Jinja render as jinja2 renders them with the settings of transformers
// (tests/data/chat/golden.json, from tools/golden/chat_golden.py) and fail where it fails; what is not known is refused
// by name; no template runs forever; a conversation's next prompt begins with the tokens already said.
#include "chat/chat_template.h"
#include "chat/conversation.h"
#include "core/error.h"
#include "core/json.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace scalebits {
namespace {

const std::filesystem::path kData = std::filesystem::path(SCALEBITS_SOURCE_DIR) / "tests/data";

const Json& golden() {
  static const Json json = read_json_file(kData / "chat/golden.json");
  return json;
}

/// 2024-07-03 12:30, as in the script.
std::tm golden_now() {
  std::tm now{};
  now.tm_year = 124;
  now.tm_mon = 6;
  now.tm_mday = 3;
  now.tm_hour = 12;
  now.tm_min = 30;
  return now;
}

/// What the template gives, or "error: …".
std::string rendered(const std::string& source, const Json& variables) {
  try {
    return jinja::Template(source, "golden").render(variables, golden_now());
  } catch (const Error& error) {
    return std::string("error: ") + error.what();
  }
}

std::string error_of(const std::string& source, const Json& variables = Json::object()) {
  const std::string found = rendered(source, variables);
  EXPECT_TRUE(found.starts_with("error: ")) << source << " gave " << found;
  return found;
}

TEST(ChatTemplates, RenderConversationsAsTransformersDoes) {
  int refused = 0;
  for (const Json& model : golden()["models"]) {
    for (std::size_t i = 0; i < golden()["conversations"].size(); ++i) {
      Json variables = model["variables"];
      variables["messages"] = golden()["conversations"][i];
      const std::string found = rendered(model["template"], variables);
      const Json& wanted = model["results"][i];
      if (wanted.contains("rendered")) {
        EXPECT_EQ(found, wanted["rendered"]) << model["name"] << ", conversation " << i;
      } else {
        EXPECT_TRUE(found.starts_with("error: ") && found.ends_with(wanted["error"].get<std::string>())) << found;
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 0) << "some conversations must be refused";
}

TEST(Jinja, RendersAsJinja2Does) {
  const Json variables = {{"messages", golden()["conversations"][3]}};
  for (const Json& snippet : golden()["snippets"]) {
    const std::string found = rendered(snippet["template"], variables);
    if (snippet.contains("rendered"))
      EXPECT_EQ(found, snippet["rendered"]) << snippet["template"];
    else
      EXPECT_TRUE(found.starts_with("error: golden, line 1: ")) << snippet["template"] << " gave " << found;
  }
}

TEST(Jinja, RefusesByNameWhatItDoesNotKnow) {
  EXPECT_EQ(error_of("a\n{% macro f() %}{% endmacro %}"),
            "error: golden, line 2: the statement 'macro' is not known; known are if, for, set, generation, break and "
            "continue");
  // Before it is run, wherever it stands.
  EXPECT_NE(error_of("{% if false %}\n{{ x|shuffle }}{% endif %}")
                .find("line 2: the filter 'shuffle' is not known; known are"),
            std::string::npos);
  EXPECT_NE(error_of("{% if x is divisibleby 3 %}{% endif %}").find("the test 'divisibleby' is not known"),
            std::string::npos);
  EXPECT_NE(error_of("{% if false %}\n{{ 'x'.zfill(3) }}{% endif %}")
                .find("line 2: the method 'zfill' is not known; known are capitalize, endswith, "),
            std::string::npos);
  EXPECT_NE(error_of("{% for x in [] if lipsum(x) %}{% endfor %}").find("the function 'lipsum' is not known; known"),
            std::string::npos);
  EXPECT_NE(error_of("{% if false %}{% else %}{% set x = dict(a=[{'b': ns.c.d().e}]) %}{% endif %}")
                .find("the method 'd' is not known"),
            std::string::npos);
  EXPECT_THROW(jinja::Template("{% if false %}{{ lipsum() }}{% endif %}", "x"), Error);
  EXPECT_THROW(jinja::Template("{% if false %}{{ 'x'.zfill(3) }}{% endif %}", "x"), Error);
  // Known of another kind of value, which shows when it is run.
  EXPECT_NE(error_of("{{ {}.strip() }}").find("a map's method 'strip' is not known; known are get, items, keys"),
            std::string::npos);
  EXPECT_NE(error_of("{{ [].strip() }}").find("only texts and maps have methods"), std::string::npos);
  EXPECT_NE(error_of("{{ 'é'|upper }}").find("only known for ASCII"), std::string::npos);
  EXPECT_NE(error_of("{{ [1] }}").find("printing array is not known"), std::string::npos);
}

TEST(Jinja, EndsForEveryTemplate) {
  EXPECT_NE(error_of("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}").find("steps"),
            std::string::npos);
  EXPECT_NE(
      error_of("{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}")
          .find("grows"),
      std::string::npos);
  EXPECT_NE(error_of("{{ range(1000000000)|length }}").find("range"), std::string::npos);
  const auto repeated = [](const std::string& part) {
    std::string all;
    for (int i = 0; i < 20000; ++i) all += part;
    return all;
  };
  for (const auto& [begin, end] : {std::pair{"(", ")"},
                                   {"[", "]"},
                                   {"{1:", "}"},
                                   {"-", ""},
                                   {"not ", ""},
                                   {"a or ", ""},
                                   {"a and ", ""},
                                   {"a + ", ""},
                                   {"a ~ ", ""},
                                   {"a if ", ""},
                                   {"a(", ")"}})
    EXPECT_NE(error_of("{{ " + repeated(begin) + "1" + repeated(end) + " }}").find("too deep"), std::string::npos)
        << begin;
  for (const char* part : {"{% if 1 %}", "{% for a in b %}", "{% if 1 %}{% elif 1 %}"})
    EXPECT_NE(error_of(repeated(part)).find("too deep"), std::string::npos) << part;
  const std::string chain = "{{ a" + repeated(".b");
  EXPECT_NE(error_of(chain + " }}").find("too deep"), std::string::npos);
}

TEST(Jinja, SlicesWithAnyStep) {
  const Json none = Json::object();
  EXPECT_EQ(rendered("{{ 'abc'[1::9223372036854775807] }}", none), "b");
  EXPECT_EQ(rendered("{{ 'abc'[::-9223372036854775807] }}", none), "c");
  EXPECT_EQ(rendered("{% for x in (range(5)|list)[3::9223372036854775807] %}{{ x }}{% endfor %}", none), "3");
  EXPECT_EQ(rendered("{{ 'aébc'[-3] }}{{ 'aébc'[1:3] }}{{ 'aébc'[::-1] }}{{ 'abc'[3] }}", none), "éébcbéa");
}

TEST(Jinja, NumbersEndAt64Bits) {
  const std::string most = "9223372036854775807", least = "(-9223372036854775807 - 1)";
  for (const std::string& sum : {most + " + 1", least + " - 1", most + " * 2", least + " // -1", "-" + least})
    EXPECT_NE(error_of("{{ " + sum + " }}").find("beyond 64 bits"), std::string::npos) << sum;
  EXPECT_EQ(rendered("{{ " + least + " % -1 }} {{ " + least + " // 3 }} {{ -7 // 2 }} {{ -7 % 2 }} {{ 7 // -1 }}",
                     Json::object()),
            "0 -3074457345618258603 -4 1 -7");
}

TEST(Jinja, DropsALineEndBehindABackslashInATextAsJinja2Does) {
  EXPECT_EQ(rendered("{{ 'a\\\n b' }}", Json::object()), "a b");
}

TEST(Jinja, EndsWithinBoundsOfMemoryAndStack) {
  const auto doubled = [](int times) {
    return "{% set ns = namespace(x='a') %}{% for i in range(" + std::to_string(times) +
           ") %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
  };
  for (const std::string& source :
       {std::string("{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"),
        std::string("{% for a in range(2000) %}{% set b = range(100000) %}{% endfor %}"),
        doubled(24) + "{% for i in range(100000) %}{% set y = ns.x %}{% endfor %}",
        doubled(24) + "{% for i in range(100000) %}{% set y %}{{ ns.x }}{% endset %}{% endfor %}",
        doubled(24) + "{% for i in range(100000) %}{% if ns.x == ns.x %}{% endif %}{% endfor %}",
        doubled(24) + "{% for i in range(100000) %}{% if ns.x.startswith('a') %}{% endif %}{% endfor %}",
        doubled(25) + "{{ ns.x|list|length }}", doubled(25) + "{{ ns.x.split('a')|length }}",
        doubled(25) + "{{ ns.x|replace('a', ns.x)|length }}", doubled(20) + "{{ (ns.x ~ 'b').strip(ns.x) }}",
        doubled(20) + "{{ ns.x|list|join(ns.x)|length }}"})
    EXPECT_NE(error_of(source).find("grows beyond"), std::string::npos) << source;
  // In linear time.
  EXPECT_EQ(rendered(doubled(20) + "{{ (ns.x ~ 'b' ~ ns.x) in (ns.x ~ ns.x ~ 'c') }}", Json::object()), "False");

  const std::string list = std::string(20, '[') + "ns.x" + std::string(20, ']');
  for (const std::string& value :
       {list, std::string("{'a': ns.x}"), std::string("namespace(x=ns.x)"), std::string("ns")})
    EXPECT_NE(
        error_of("{% set ns = namespace(x=1) %}{% for i in range(100000) %}{% set ns.x = " + value + " %}{% endfor %}")
            .find("nested deeper than 200 levels"),
        std::string::npos)
        << value;
}

TEST(Jinja, LongConversationsAreFarFromTheBounds) {
  Json messages = Json::array();
  for (int i = 0; i < 1000; ++i)
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(10'000, 'x')}});
  for (const Json& model : golden()["models"]) {
    Json variables = model["variables"];
    variables["messages"] = messages;
    const std::string found = rendered(model["template"], variables);
    EXPECT_GT(found.size(), 1'000'000u) << model["name"] << ": " << found.substr(0, 200);
  }
}

TEST(Jinja, SurvivesEveryPrefixAndChangedByteOfRealTemplates) {
  const Json variables = {{"messages", golden()["conversations"][3]}, {"add_generation_prompt", true}};
  for (const Json& model : golden()["models"]) {
    const std::string source = model["template"];
    const std::size_t step = std::max<std::size_t>(1, source.size() / 60);
    for (std::size_t at = 0; at < source.size(); at += step) {
      rendered(source.substr(0, at), variables);
      for (const char c : {'{', '}', '\'', '(', '%', '\0', '\xff'}) {
        std::string changed = source;
        changed[at] = c;
        rendered(changed, variables);
      }
    }
  }
}

Tokenizer tiny_tokenizer() { return Tokenizer::from_tokenizer_json(kData / "tokenizer/qwen2.json"); }

std::string template_of(const std::string& name) {
  for (const Json& model : golden()["models"])
    if (model["name"] == name) return model["template"];
  ADD_FAILURE() << name;
  return "";
}

TEST(ChatTemplates, TakeTheirSpecialTokensFromTheTokenizer) {
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(kData / "tokenizer/llama3.json");
  const std::vector<ChatMessage> messages = {{"user", "Hi"}};
  ASSERT_TRUE(tokenizer.bos());
  EXPECT_EQ(ChatTemplate("{{ bos_token }}{{ messages[0].content }}", tokenizer, "x").render(messages),
            std::string(tokenizer.piece(*tokenizer.bos())) + "Hi");
  try {
    ChatTemplate("", tokenizer, "some.gguf");
    FAIL() << "a model without a template was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_NE(std::string(error.what()).find("some.gguf: the model has no chat template"), std::string::npos);
  }
}

TEST(Conversations, KeepWhatWasSaidInItsTokens) {
  const Tokenizer tokenizer = tiny_tokenizer();
  Conversation talk(ChatTemplate(template_of("smollm2"), tokenizer, "x"), tokenizer);
  const auto first = talk.ask("the quick brown fox");
  EXPECT_EQ(first, tokenizer.encode(golden()["models"][0]["results"][0]["rendered"].get<std::string>().replace(
                       golden()["models"][0]["results"][0]["rendered"].get<std::string>().find("Hello"), 5,
                       "the quick brown fox")));

  // The answer in single bytes: not how its text is encoded.
  std::vector<std::int32_t> answer;
  for (const char c : std::string("the lazy dog")) answer.push_back(tokenizer.encode(std::string(1, c)).front());
  ASSERT_NE(answer, tokenizer.encode("the lazy dog"));
  talk.answer(answer);
  auto said = first;
  said.insert(said.end(), answer.begin(), answer.end());

  const auto second = talk.ask("and now?");
  ASSERT_GT(second.size(), said.size());
  EXPECT_TRUE(std::equal(said.begin(), said.end(), second.begin()));
  const std::vector<std::int32_t> added(second.begin() + static_cast<std::ptrdiff_t>(said.size()), second.end());
  EXPECT_EQ(added, tokenizer.encode("<|im_end|>\n<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_EQ(tokenizer.decode(second), tokenizer.decode(tokenizer.encode(tokenizer.decode(second))));

  talk.forget_question();
  EXPECT_EQ(talk.ask("and now?"), second);
  talk.answer({});
  talk.reset();
  EXPECT_EQ(talk.ask("the quick brown fox"), first);
}

TEST(Conversations, EncodeAnewWhatTheTemplateRewrites) {
  const Tokenizer tokenizer = tiny_tokenizer();
  // Thoughts of earlier turns are left out.
  Conversation talk(ChatTemplate(template_of("qwen3"), tokenizer, "x"), tokenizer, "Be brief.");
  talk.ask("one");
  talk.answer(tokenizer.encode("<think>\nhm\n</think>\n\nyes"));
  EXPECT_EQ(
      tokenizer.decode(talk.ask("two")),
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
      "<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n");
}

TEST(Conversations, KnowTheTokenThatEndsATurn) {
  const Tokenizer tokenizer = tiny_tokenizer();
  const auto turn_end = [&](const std::string& source) {
    return Conversation(ChatTemplate(source, tokenizer, "x"), tokenizer).turn_end();
  };
  const std::int32_t end = tokenizer.encode("<|im_end|>").front();
  for (const char* name : {"smollm2", "qwen2.5", "chatml", "qwen3"})
    EXPECT_EQ(turn_end(template_of(name)), end) << name;
  EXPECT_EQ(turn_end("{% for m in messages %}{{ m.content }} <|im_end|>{% endfor %}"), end);
  EXPECT_EQ(turn_end("{% for m in messages %}{{ m.content }}\n{% endfor %}"), std::nullopt);
}

TEST(Conversations, AreAsBeforeWhenTheTemplateRefuses) {
  const Tokenizer tokenizer = tiny_tokenizer();
  Conversation talk(
      ChatTemplate("{% if messages[-1].content == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ messages|length }}",
                   tokenizer, "x"),
      tokenizer);
  EXPECT_THROW(talk.ask("bad"), Error);
  EXPECT_EQ(tokenizer.decode(talk.ask("good")), "1");

  // Later on, too: with all that was said.
  const char* const source =
      "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no') }}{% endif %}"
      "{{ m.content }}<|im_end|>{% endfor %}";
  Conversation refused(ChatTemplate(source, tokenizer, "x"), tokenizer);
  Conversation other(ChatTemplate(source, tokenizer, "x"), tokenizer);
  for (Conversation* each : {&refused, &other}) {
    each->ask("one");
    each->answer(tokenizer.encode("yes"));
  }
  EXPECT_THROW(refused.ask("bad"), Error);
  ASSERT_EQ(refused.messages().size(), 2u);
  EXPECT_EQ(refused.messages().back().content, "yes");
  const auto next = other.ask("good");
  EXPECT_EQ(refused.ask("good"), next);
  refused.forget_question();
  EXPECT_EQ(refused.ask("good"), next);
}

}  // namespace
}  // namespace scalebits
