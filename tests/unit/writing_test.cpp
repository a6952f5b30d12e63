// Contract of src/writing: the tokens are those of a plain loop that reads everything anew for each token; what was
// read before is not read again, over all turns of a conversation; stop tokens, stop strings, limits and Ctrl-C end a
// text where they should; neither the number of threads nor the company of other sequences changes a token; keys and
// values are kept as was asked for.
#include "writing/text_writer.h"

#include "chat/conversation.h"
#include "core/error.h"
#include "core/progress.h"
#include "core/random.h"
#include "tiny_models.h"
#include "tokenizer/tokenizer.h"
#include "writing/own_text.h"

#include <gtest/gtest.h>

#include <numeric>

namespace scalebits {
namespace {

using Tokens = std::vector<std::int32_t>;

constexpr const char* kChatMl =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ '\\n' + m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '\\n' }}{% endif %}";

Tokenizer tiny_tokenizer() {
  return Tokenizer::from_tokenizer_json(SCALEBITS_SOURCE_DIR "/tests/data/tokenizer/qwen2.json");
}

Checkpoint tiny_checkpoint() {
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  spec.vocab = tiny_tokenizer().vocab_size();
  spec.max_positions = 600;
  return testing_models::tiny_checkpoint(spec, 5);
}

std::unique_ptr<RuntimeModel> tiny_model(int threads = 2) {
  static const Checkpoint checkpoint = tiny_checkpoint();
  return RuntimeModel::from_checkpoint(checkpoint, {.threads = threads, .profile = true});
}

const Tokens kPrompt = {5, 90, 17, 203, 44};
const WritingOptions kDrawn{.sampling = {.temperature = 1, .top_p = 0.9, .repetition_penalty = 1.2, .seed = 4}};

void ignore(std::string_view) {}

TEST(TextWriter, WritesWhatAPlainLoopWrites) {
  const auto model = tiny_model();
  const Tokenizer tokenizer = tiny_tokenizer();
  Tokens wanted, all = kPrompt;
  for (std::uint64_t i = 0; i < 40; ++i) {
    Session fresh(*model);
    wanted.push_back(choose_token(fresh.evaluate(all), kDrawn.sampling, all, CounterRng(4).uniform(i)));
    all.push_back(wanted.back());
  }
  Session session(*model);
  std::string text;
  const Written written =
      TextWriter(session, tokenizer, kDrawn).write(kPrompt, 40, [&](std::string_view piece) { text += piece; });
  EXPECT_EQ(written.tokens, wanted);
  EXPECT_EQ(written.end, WritingEnd::token_limit);
  EXPECT_EQ(written.read_tokens, 5);
  EXPECT_EQ(written.reading.tokens, 5);
  EXPECT_EQ(written.writing.tokens, 39) << "the last token is chosen, not read";
  StreamDecoder stream(tokenizer, {.special_text = false, .text_start = false});
  std::string wanted_text;
  for (const std::int32_t token : wanted) wanted_text += stream.push(token);
  EXPECT_EQ(text, wanted_text + stream.finish());
}

TEST(TextWriter, GivesTheSameTokensWithAnyNumberOfThreads) {
  const Tokenizer tokenizer = tiny_tokenizer();
  std::vector<Tokens> found;
  for (const int threads : {1, 2, 8}) {
    const auto model = tiny_model(threads);
    Session session(*model);
    found.push_back(TextWriter(session, tokenizer, kDrawn).write(kPrompt, 60, ignore).tokens);
  }
  EXPECT_EQ(found[0], found[1]);
  EXPECT_EQ(found[0], found[2]);
}

TEST(TextWriter, ReadsNoTokenTwiceInAConversation) {
  const auto model = tiny_model();
  const Tokenizer tokenizer = tiny_tokenizer();
  Conversation talk(ChatTemplate(kChatMl, tokenizer, "tiny"), tokenizer, "Be brief.");
  Session session(*model);
  TextWriter writer(session, tokenizer, kDrawn);
  std::int64_t read = 0, before = 0;
  for (const char* words : {"the quick brown fox", "and then?", "words: 1987 naïve"}) {
    const Tokens prompt = talk.ask(words);
    const Written written = writer.write(prompt, 30, ignore);
    EXPECT_EQ(written.kept_tokens, before) << words;
    read += written.reading.tokens + written.writing.tokens;
    EXPECT_EQ(read, session.length()) << words;
    before = session.length();
    talk.answer(written.tokens);

    // As good as reading everything anew.
    Session fresh(*model);
    const auto anew = fresh.evaluate(session.tokens());
    const Tokens last = {session.tokens().back()};
    const std::vector<float> wanted(anew.begin(), anew.end());
    session.keep(session.length() - 1);
    const auto again = session.evaluate(last);
    EXPECT_EQ(std::vector<float>(again.begin(), again.end()), wanted);
  }
  EXPECT_GT(before, 100);
}

TEST(TextWriter, EndsWhereItShould) {
  const auto model = tiny_model();
  const Tokenizer tokenizer = tiny_tokenizer();
  const auto write = [&](WritingOptions options, std::int64_t limit, std::string& text) {
    Session session(*model, {.max_positions = 60});
    options.sampling = kDrawn.sampling;
    text.clear();
    return TextWriter(session, tokenizer, options).write(kPrompt, limit, [&](std::string_view piece) {
      text += piece;
    });
  };
  std::string whole, text;
  const Tokens free_run = write({}, 40, whole).tokens;

  const Written stopped = write({.stop_ids = {free_run[12]}}, 40, text);
  const auto first = std::find(free_run.begin(), free_run.end(), free_run[12]);
  EXPECT_EQ(stopped.end, WritingEnd::stop_token);
  EXPECT_EQ(stopped.tokens, Tokens(free_run.begin(), first));

  ASSERT_GT(whole.size(), 20u);
  const std::string stop = whole.substr(10, 4);
  const Written cut = write({.stops = {"not there", stop}}, 40, text);
  EXPECT_EQ(cut.end, WritingEnd::stop_string);
  EXPECT_EQ(text, whole.substr(0, whole.find(stop)));
  ASSERT_LT(cut.shown_tokens, cut.tokens.size());
  StreamDecoder stream(tokenizer, {.special_text = false, .text_start = false});
  std::string said;
  for (std::size_t i = 0; i < cut.shown_tokens; ++i) said += stream.push(cut.tokens[i]);
  EXPECT_EQ(said + stream.finish(), text) << "a conversation goes on from what was shown";
  EXPECT_EQ(stopped.shown_tokens, stopped.tokens.size());

  EXPECT_EQ(write({.stops = {"not there"}}, 40, text).end, WritingEnd::token_limit);
  EXPECT_EQ(text, whole) << "what was held back comes at the end";
  const Written full = write({}, 1000, text);
  EXPECT_EQ(full.end, WritingEnd::out_of_positions);
  EXPECT_EQ(full.tokens.size(), 56u) << "the last one needs no position";

  Session session(*model);
  EXPECT_THROW(TextWriter(session, tokenizer, {.stops = {""}}), Error);
  EXPECT_THROW(TextWriter(session, tokenizer, {.sampling = {.top_p = 2}}), Error);
  EXPECT_THROW(TextWriter(session, tokenizer, {}).write(kPrompt, 0, ignore), Error);
}

TEST(TextWriter, StopsAtCtrlC) {
  const auto model = tiny_model();
  const Tokenizer tokenizer = tiny_tokenizer();
  Session session(*model);
  std::size_t shown = 0;
  const Written written = TextWriter(session, tokenizer, kDrawn).write(kPrompt, 40, [&](std::string_view piece) {
    shown += piece.size();
    if (shown > 8) interrupt_requested = true;
  });
  interrupt_requested = false;
  EXPECT_EQ(written.end, WritingEnd::interrupted);
  EXPECT_LT(written.tokens.size(), 40u);
}

TEST(OwnText, StopsAtCtrlC) {
  const auto model = tiny_model();
  int reports = 0;
  const auto interrupt = [&](const ProgressReport&) { ++reports, interrupt_requested = true; };
  try {
    write_own_text(*model, {.windows = 2, .length = 40}, interrupt);
    ADD_FAILURE() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::interrupted);
  }
  interrupt_requested = false;
  EXPECT_EQ(reports, 1);
}

TEST(OwnText, KeepsKeysAndValuesAsAskedFor) {
  const auto model = tiny_model();
  const auto vocab = static_cast<std::size_t>(model->spec().vocab);
  std::vector<Tokens> texts;
  for (const KvType kv : {KvType::f16, KvType::i8}) {
    texts.push_back(write_own_text(*model, {.windows = 1, .length = 400, .seed = 6, .start_token = 3, .kv = kv})[0]);
    Session session(*model, {.kv = kv});
    Tokens wanted;
    for (std::uint64_t i = 0; i < 400; ++i) {
      const std::int32_t last = i == 0 ? 3 : wanted.back();
      const std::span<const float> logits = session.evaluate({&last, 1});
      wanted.push_back(choose_token(logits.first(vocab), {.temperature = 1}, {}, CounterRng(6, 0).uniform(i)));
    }
    EXPECT_EQ(texts.back(), wanted);
  }
  EXPECT_NE(texts[0], texts[1]);
}

TEST(OwnText, DoesNotDependOnTheCompany) {
  const auto model = tiny_model();
  OwnTextOptions options{.windows = 18, .length = 12, .seed = 9, .start_token = 3};
  const auto many = write_own_text(*model, options);
  ASSERT_EQ(many.size(), 18u);
  for (const Tokens& text : many) EXPECT_EQ(text.size(), 12u);
  options.windows = 2;
  const auto few = write_own_text(*model, options);
  EXPECT_EQ(few[0], many[0]);
  EXPECT_EQ(few[1], many[1]);
  EXPECT_NE(few[0], few[1]);
  options.length = 601;
  EXPECT_THROW(write_own_text(*model, options), Error);
}

}  // namespace
}  // namespace scalebits
