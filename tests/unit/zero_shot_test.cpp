// Contract of the zero-shot tasks: records become the harness's words, broken ones are errors with file and line; a
// context read once for many choices, in the company of others, gives the bits of each sequence read alone; what is
// cut, chosen and averaged is what the definitions say.
#include "evaluate/zero_shot.h"

#include "evaluate/answer_comparison.h"

#include "core/error.h"
#include "core/random.h"
#include "evaluate/token_loss.h"
#include "tiny_models.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

namespace scalebits {
namespace {

using testing_models::TemporaryFolder;
using testing_models::write_text;
using Tokens = std::vector<std::int32_t>;

const std::string kTokenizers = SCALEBITS_SOURCE_DIR "/tests/data/tokenizer/";

Tokenizer byte_level() { return Tokenizer::from_tokenizer_json(kTokenizers + "qwen2.json"); }

std::unique_ptr<RuntimeModel> tiny_model(const RuntimeOptions& options = {.threads = 2}) {
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  spec.vocab = byte_level().vocab_size();
  Checkpoint checkpoint;
  checkpoint.spec = spec;
  checkpoint.source = "tiny";
  checkpoint.tokenizer = std::make_shared<const Tokenizer>(byte_level());
  const auto model = testing_models::random_model(spec, 5);
  for (const TensorShape& tensor : required_tensors(spec)) {
    std::vector<float> values = model.weights.at(tensor.name);
    for (float& value : values) value *= tensor.shape.size() == 1 ? 1.0f : 0.25f;
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::move(values));
  }
  return RuntimeModel::from_checkpoint(checkpoint, options);
}

std::vector<TaskItem> items_of(const std::string& task, const std::string& lines) {
  const TemporaryFolder folder;
  write_text(folder / std::string(task_named(task).file), lines);
  return read_task(task_named(task), folder.path());
}

std::string error_of(const std::string& task, const std::string& lines) {
  try {
    items_of(task, lines);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    return error.what();
  }
  return "no error";
}

TEST(ZeroShotTasks, RecordsBecomeTheHarnesssWords) {
  const TaskItem arc = items_of("arc_easy", R"({"id":0,"question":"Why?","choices":["a","b","c"],"label":2})")[0];
  EXPECT_EQ(arc.context, "Question: Why?\nAnswer:");
  EXPECT_EQ(arc.choices, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(arc.label, 2u);
  EXPECT_EQ(items_of("arc_challenge", R"({"question":"W","choices":["a","b"],"label":0})")[0].context,
            "Question: W\nAnswer:");
  EXPECT_EQ(items_of("openbookqa", R"({"question":"Fog is","choices":["wet","dry"],"label":0})")[0].context, "Fog is");

  const auto piqa = items_of("piqa",
                             "{\"goal\":\"ice box\",\"sol1\":\"cold \",\"sol2\":\" hot\",\"label\":1}\n"
                             "{\"goal\":\"g\",\"sol1\":\"1\",\"sol2\":\"2\",\"label\":0}\n");
  ASSERT_EQ(piqa.size(), 2u);
  EXPECT_EQ(piqa[0].context, "Question: ice box\nAnswer:");
  EXPECT_EQ(piqa[0].choices, (std::vector<std::string>{"cold ", " hot"})) << "as they are";
  EXPECT_EQ(piqa[0].label, 1u);
  EXPECT_EQ(piqa[1].line, 2);

  const auto boolq = items_of("boolq",
                              "{\"question\":\"is it so\",\"passage\":\"It is -- so.\",\"idx\":0,\"label\":\"true\"}\n"
                              "{\"question\":\"q\",\"passage\":\"p\",\"idx\":1,\"label\":\"false\"}");
  EXPECT_EQ(boolq[0].context, "It is -- so.\nQuestion: is it so?\nAnswer:");
  EXPECT_EQ(boolq[0].choices, (std::vector<std::string>{"no", "yes"}));
  EXPECT_EQ(boolq[0].label, 1u);
  EXPECT_EQ(boolq[1].label, 0u);
}

TEST(ZeroShotTasks, HellaSwagLosesItsMarksAndGetsItsCapital) {
  const auto item = [](const std::string& context, const std::string& ending) {
    return items_of("hellaswag", R"({"ctx":")" + context + R"(","endings":["x",")" + ending + R"("],"label":0})")[0];
  };
  EXPECT_EQ(item("High jump: A boy runs. the boy", "falls.").context, "High jump: A boy runs. The boy");
  EXPECT_EQ(item("High jump: A boy runs. The end.", "falls.").context, "High jump: A boy runs. The end.");
  EXPECT_EQ(item(" Jump: [header] How to fly [title] Buy wings [step] Go  far", "b").context,
            "Jump: How to fly. Buy wings Go far");
  EXPECT_EQ(item("a", " [substeps] Wait.   Then [a] b [c").choices[1], " Wait.  Then b [c")
      << "one pass each, as the harness makes them";
}

TEST(ZeroShotTasks, BrokenRecordsAreErrorsWithFileAndLine) {
  const std::string good = R"({"question":"q","choices":["a","b"],"label":1})"
                           "\n";
  const auto expect = [&](const std::string& task, const std::string& lines, const std::string& wanted) {
    const std::string found = error_of(task, lines);
    EXPECT_NE(found.find(wanted), std::string::npos) << found;
    EXPECT_NE(found.find(task_named(task).file), std::string::npos) << found;
  };
  expect("arc_easy", good + R"({"choices":["a","b"],"label":1})", "line 2: key 'question' is missing");
  expect("arc_easy", R"({"question":7,"choices":["a","b"],"label":1})", "line 1: key 'question' has the wrong type");
  expect("arc_easy", R"({"question":" ","choices":["a","b"],"label":1})", "line 1: key 'question' holds no text");
  expect("arc_easy", R"({"question":"q","choices":["a"],"label":0})", "at least 2 choices, found 1");
  expect("arc_easy", R"({"question":"q","choices":["a",""],"label":0})", "a choice without text");
  for (const char* label : {"2", "-1", "1.0", "true", "\"B\"", "null"})
    expect("arc_easy", fmt::format(R"({{"question":"q","choices":["a","b"],"label":{}}})", label),
           fmt::format("line 1: key 'label' must be a whole number from 0 to 1, found {}", label));
  expect("arc_easy", good + "\n" + good, "line 2: not valid JSON");
  expect("arc_easy", good + "{\"question", "line 2: not valid JSON");
  expect("arc_easy", good + "[]", "line 2: wanted a JSON object");
  expect("arc_easy", "", "");
  expect("boolq", R"({"question":"q","passage":"p","label":"yes"})", "must be \"true\" or \"false\", found \"yes\"");
  expect("boolq", R"({"question":"q","passage":"p","label":true})", "line 1: key 'label' has the wrong type");
  expect("piqa", R"({"goal":"q","sol1":"p","label":1})", "line 1: key 'sol2' is missing");
  expect("hellaswag", R"({"ctx":"q","endings":["a","[b]"],"label":1})",
         "line 1: key 'endings' has a choice without text");
  EXPECT_THROW(read_task(task_named("piqa"), "/nonexistent"), Error);
  EXPECT_THROW(task_named("mmlu"), Error);
}

TEST(ZeroShotTasks, ASampleIsSpreadOverTheFile) {
  std::vector<TaskItem> items(10);
  for (std::size_t i = 0; i < items.size(); ++i) items[i].line = static_cast<std::int64_t>(i);
  const auto lines = [&](std::int64_t limit) {
    std::vector<std::int64_t> found;
    for (const TaskItem& item : sample_items(items, limit)) found.push_back(item.line);
    return found;
  };
  EXPECT_EQ(lines(1), (std::vector<std::int64_t>{5}));
  EXPECT_EQ(lines(3), (std::vector<std::int64_t>{1, 5, 8}));
  EXPECT_EQ(lines(5), (std::vector<std::int64_t>{1, 3, 5, 7, 9}));
  EXPECT_EQ(lines(9).size(), 9u);
  EXPECT_EQ(lines(10), lines(0));
  EXPECT_EQ(lines(11), lines(0));
}

TEST(EncodeChoice, AsTheHarnessDoes) {
  const Tokenizer tokenizer = byte_level();
  const Tokens context = tokenizer.encode("the theme"), whole = tokenizer.encode("the theme of it");
  const EncodedChoice plain = encode_choice(tokenizer, "the theme", "of it", {.max_positions = 64}, "x");
  EXPECT_EQ(plain.ids, whole);
  EXPECT_EQ(plain.scored, static_cast<std::int64_t>(whole.size() - context.size()));

  const EncodedChoice spaced = encode_choice(tokenizer, "the theme \n", "of it", {.max_positions = 64}, "x");
  EXPECT_EQ(spaced.ids, tokenizer.encode("the theme \n of it"));
  EXPECT_EQ(spaced.ids.size() - static_cast<std::size_t>(spaced.scored), context.size())
      << "white space at the end of the context belongs to the choice";

  // All but the last token fit.
  const auto length = static_cast<std::int64_t>(whole.size());
  EXPECT_EQ(encode_choice(tokenizer, "the theme", "of it", {.max_positions = length - 1}, "x").ids, whole);
  const EncodedChoice cut = encode_choice(tokenizer, "the theme", "of it", {.max_positions = plain.scored}, "x");
  EXPECT_EQ(cut.ids, Tokens(whole.end() - plain.scored - 1, whole.end())) << "one token of the context is left";
  EXPECT_EQ(cut.scored, plain.scored);
  EXPECT_THROW(encode_choice(tokenizer, "the theme", "of it", {.max_positions = plain.scored - 1}, "x"), Error);
  EXPECT_THROW(encode_choice(tokenizer, " ", "of it", {.max_positions = 64}, "x"), Error);

  const Tokenizer with_bos = Tokenizer::from_tokenizer_json(kTokenizers + "llama3.json");
  const EncodedChoice begun = encode_choice(with_bos, "the", "end", {.bos = true, .max_positions = 64}, "x");
  EXPECT_EQ(begun.ids.front(), with_bos.bos());
  EXPECT_EQ(begun.scored, encode_choice(with_bos, "the", "end", {.max_positions = 64}, "x").scored);
}

/// The definition: one sequence, token by token.
double alone(RuntimeModel& model, const EncodedChoice& choice) {
  Session session(model);
  const auto first = choice.ids.size() - static_cast<std::size_t>(choice.scored);
  double sum = 0;
  for (std::size_t i = 0; i + 1 < choice.ids.size(); ++i) {
    const auto logits = session.evaluate(std::span(choice.ids).subspan(i, 1));
    if (i + 1 >= first) sum -= negative_log_likelihood(logits.data(), model.spec().vocab, choice.ids[i + 1]);
  }
  return sum;
}

TEST(LogLikelihoods, AreThoseOfEachSequenceReadAlone) {
  const auto model = tiny_model({.threads = 2, .chunk_tokens = 24});
  const CounterRng random(9);
  std::uint64_t drawn = 0;
  const auto some = [&](std::uint64_t count) {
    Tokens ids;
    for (std::uint64_t i = 0; i < count; ++i)
      ids.push_back(static_cast<std::int32_t>(random.below(drawn++, static_cast<std::uint64_t>(model->spec().vocab))));
    return ids;
  };
  // More contexts than are read at once, of 1 to 40 tokens, with 2 to 5 choices of 1 to 9 tokens; every fourth question
  // is too long, so that each of its choices cuts the context differently.
  std::vector<std::vector<EncodedChoice>> questions(37);
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const Tokens context = some(i % 4 == 3 ? 70 : 1 + random.below(drawn++, 40));
    for (std::uint64_t choice = 0; choice < 2 + i % 4; ++choice) {
      const Tokens scored = some(1 + random.below(drawn++, 9));
      Tokens ids = context;
      ids.insert(ids.end(), scored.begin(), scored.end());
      if (ids.size() > 65) ids.erase(ids.begin(), ids.end() - 65);
      questions[i].push_back({ids, static_cast<std::int64_t>(scored.size())});
    }
  }
  const auto single = tiny_model({.threads = 1});
  const auto results = log_likelihoods(*model, questions, KvType::f16, [&](const ProgressReport& report) {
    EXPECT_GE(report.fraction, 0);
    EXPECT_LT(report.fraction, 1);
  });
  ASSERT_EQ(results.size(), questions.size());
  for (std::size_t i = 0; i < questions.size(); ++i) {
    ASSERT_EQ(results[i].size(), questions[i].size());
    for (std::size_t choice = 0; choice < questions[i].size(); ++choice)
      EXPECT_EQ(results[i][choice], alone(*single, questions[i][choice])) << i << ", " << choice;
  }
}

TEST(LogLikelihoods, ReadASharedContextOnce) {
  const std::vector<std::vector<EncodedChoice>> questions = {
      {{{1, 2, 3, 4, 5}, 2}, {{1, 2, 3, 9}, 1}, {{1, 2, 3, 6, 7, 8}, 3}}, {{{5, 6}, 1}, {{7, 6}, 1}}};
  EXPECT_EQ(tokens_to_read(questions), 3 + 1 + 0 + 2 + 1 + 1) << "the last token of a choice is not read";
  const auto model = tiny_model({.threads = 1, .profile = true});
  log_likelihoods(*model, questions, KvType::f16);
  EXPECT_EQ(model->profile().tokens, tokens_to_read(questions));
}

TEST(LogLikelihoods, StopOnInterrupt) {
  const auto model = tiny_model();
  interrupt_requested = true;
  EXPECT_THROW(log_likelihoods(*model, std::vector<std::vector<EncodedChoice>>{{{{1, 2}, 1}}}, KvType::f16), Error);
  interrupt_requested = false;
}

TEST(ZeroShot, AnswersBesideAnothersArePaired) {
  // boolq goes by acc: ten questions, right where the likeliest is 1.
  const auto answers = [](const std::string& task, const std::string& likeliest, const std::string& by_length) {
    TaskResult result{.task = task_named(task)};
    for (std::size_t i = 0; i < likeliest.size(); ++i)
      result.questions.push_back({.line = static_cast<std::int64_t>(i),
                                  .label = 1,
                                  .likeliest = static_cast<std::size_t>(likeliest[i] - '0'),
                                  .likeliest_by_length = static_cast<std::size_t>(by_length[i] - '0')});
    return result;
  };
  const TaskResult one = answers("boolq", "1111100000", "0000000000"),
                   other = answers("boolq", "1100011000", "1111111111");
  const AnswerComparison found = compare_answers(one, other);
  EXPECT_DOUBLE_EQ(found.difference.mean, 0.1);  // three gained, two lost
  EXPECT_DOUBLE_EQ(found.same, 0.5);
  EXPECT_NEAR(found.difference.standard_error, std::sqrt((5 - 10 * 0.01) / 9 / 10), 1e-15);
  // openbookqa goes by length, and 0 and 2 are both wrong, but not the same.
  const TaskResult wrong = answers("openbookqa", "11", "02"), mixed = answers("openbookqa", "00", "01");
  EXPECT_DOUBLE_EQ(compare_answers(wrong, mixed).difference.mean, -0.5);
  EXPECT_DOUBLE_EQ(compare_answers(wrong, answers("openbookqa", "11", "20")).same, 0);
  const std::vector<TaskResult> all = {one, wrong}, references = {other, mixed};
  const AnswerComparison mean = compare_answers(all, references);
  EXPECT_DOUBLE_EQ(mean.difference.mean, (0.1 - 0.5) / 2);
  EXPECT_DOUBLE_EQ(mean.same, 0.5);
  EXPECT_NEAR(mean.difference.standard_error,
              std::hypot(found.difference.standard_error, compare_answers(wrong, mixed).difference.standard_error) / 2,
              1e-15);
}

TEST(ZeroShot, ChoosesCountsAndAverages) {
  const auto model = tiny_model({.threads = 1});
  std::string lines;
  const std::vector<std::string> words = {"x", "é", "q", "the", "a long time ago"};
  // The right choice is the longest, which acc_norm likes and acc does not.
  const auto label = [&](std::size_t i) {
    std::size_t longest = 0;
    for (std::size_t choice = 1; choice < 3; ++choice)
      if (words[(i + choice) % 5].size() > words[(i + longest) % 5].size()) longest = choice;
    return longest;
  };
  for (std::size_t i = 0; i < 20; ++i)
    lines += Json{{"question", words[i % 5] + " " + words[(i / 5) % 5]},
                  {"choices", {words[i % 5], words[(i + 1) % 5], words[(i + 2) % 5]}},
                  {"label", label(i)}}
                 .dump() +
             "\n";
  const std::vector<TaskSample> samples = {{task_named("openbookqa"), items_of("openbookqa", lines)},
                                           {task_named("arc_easy"), items_of("arc_easy", lines)}};
  double last = 0;
  const auto results = measure_zero_shot(*model, samples, {}, [&](const ProgressReport& report) {
    EXPECT_GE(report.fraction, last);
    last = report.fraction;
  });
  EXPECT_GT(last, 0.5) << "the fraction is of all tasks";
  ASSERT_EQ(results.size(), 2u);
  double mean = 0, variance = 0;
  for (std::size_t task = 0; task < 2; ++task) {
    double right = 0, right_by_length = 0;
    for (std::size_t i = 0; i < 20; ++i) {
      const TaskItem& item = samples[task].items[i];
      const QuestionResult& question = results[task].questions[i];
      std::size_t likeliest = 0, by_length = 0;
      const auto length = [&](std::size_t choice) {
        return item.choices[choice] == "é" ? 1.0 : static_cast<double>(item.choices[choice].size());
      };
      for (std::size_t choice = 0; choice < 3; ++choice) {
        EXPECT_EQ(question.choices[choice].ids, byte_level().encode(item.context + " " + item.choices[choice]));
        EXPECT_EQ(question.log_likelihoods[choice], alone(*model, question.choices[choice]));
        if (question.log_likelihoods[choice] > question.log_likelihoods[likeliest]) likeliest = choice;
        if (question.log_likelihoods[choice] / length(choice) > question.log_likelihoods[by_length] / length(by_length))
          by_length = choice;
      }
      EXPECT_EQ(question.likeliest, likeliest);
      EXPECT_EQ(question.likeliest_by_length, by_length);
      right += likeliest == label(i);
      right_by_length += by_length == label(i);
    }
    EXPECT_NE(right, right_by_length) << "the two measures can be told apart";
    const Accuracy acc = results[task].accuracy(Measure::acc), norm = results[task].accuracy(Measure::acc_norm);
    EXPECT_DOUBLE_EQ(acc.mean, right / 20);
    EXPECT_DOUBLE_EQ(norm.mean, right_by_length / 20);
    // The sample's standard deviation over the root of its size.
    EXPECT_NEAR(acc.standard_error, std::sqrt(20 * acc.mean * (1 - acc.mean) / 19 / 20), 1e-15);
    const Accuracy customary = task == 0 ? norm : acc;
    mean += customary.mean / 2;
    variance += customary.standard_error * customary.standard_error / 4;
  }
  EXPECT_DOUBLE_EQ(mean_accuracy(results).mean, mean);
  EXPECT_DOUBLE_EQ(mean_accuracy(results).standard_error, std::sqrt(variance));

  std::string rest = question_lines(results[1]);
  for (const QuestionResult& question : results[1].questions) {
    const Json line = parse_json(rest.substr(0, rest.find('\n')), "line");
    rest.erase(0, rest.find('\n') + 1);
    EXPECT_EQ(line["line"], question.line);
    EXPECT_EQ(line["ids"][2], question.choices[2].ids);
    EXPECT_EQ(line["log_likelihoods"], question.log_likelihoods) << "to the last bit";
  }
  EXPECT_EQ(rest, "");
  EXPECT_EQ(to_json(results[0])["customary"], "acc_norm");
}

}  // namespace
}  // namespace scalebits
