// Contract of src/sampling: a draw of a uniform number has the probabilities that the options describe (counted over an
// even grid of uniform numbers, so the counts are exact up to one cell per border); stop strings come out the same
// however the text was cut.
#include "core/error.h"
#include "core/random.h"
#include "sampling/sampler.h"
#include "sampling/stop_strings.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace scalebits {
namespace {

/// How often each token is drawn, of 1 << 12 uniform numbers in equal steps.
std::map<std::int32_t, double> shares(std::span<const float> logits, const SamplingOptions& options,
                                      std::span<const std::int32_t> history = {}) {
  std::map<std::int32_t, double> counts;
  constexpr int kSteps = 1 << 12;
  for (int i = 0; i < kSteps; ++i) counts[choose_token(logits, options, history, (i + 0.5) / kSteps)] += 1.0 / kSteps;
  return counts;
}

// Probabilities 0.1, 0.5, 0.25, 0.15 at temperature 1.
const std::vector<float> kLogits = {std::log(0.10f), std::log(0.50f), std::log(0.25f), std::log(0.15f)};
constexpr double kCell = 2.0 / (1 << 12);

void expect_shares(const std::map<std::int32_t, double>& found, const std::map<std::int32_t, double>& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (const auto& [id, share] : wanted) EXPECT_NEAR(found.at(id), share, kCell) << "token " << id;
}

TEST(ChooseToken, GreedyTakesTheLikeliestAndTheSmallerIdOfEquals) {
  EXPECT_EQ(choose_token(kLogits, {}, {}, 0.99), 1);
  EXPECT_EQ(choose_token(std::vector<float>{1, 3, 3, 2}, {}, {}, 0.99), 1);
}

TEST(ChooseToken, DrawsWithTheProbabilitiesOfTheLogits) {
  expect_shares(shares(kLogits, {.temperature = 1}), {{0, 0.10}, {1, 0.50}, {2, 0.25}, {3, 0.15}});
  // Temperature 1/2 squares the probabilities.
  const double sum = 0.01 + 0.25 + 0.0625 + 0.0225;
  expect_shares(shares(kLogits, {.temperature = 0.5}),
                {{0, 0.01 / sum}, {1, 0.25 / sum}, {2, 0.0625 / sum}, {3, 0.0225 / sum}});
}

TEST(ChooseToken, CutsByNumberByMassAndByRatio) {
  expect_shares(shares(kLogits, {.temperature = 1, .top_k = 2}), {{1, 2 / 3.0}, {2, 1 / 3.0}});
  expect_shares(shares(kLogits, {.temperature = 1, .top_k = 9}), {{0, 0.10}, {1, 0.50}, {2, 0.25}, {3, 0.15}});
  expect_shares(shares(kLogits, {.temperature = 1, .top_p = 0.7}), {{1, 2 / 3.0}, {2, 1 / 3.0}});
  expect_shares(shares(kLogits, {.temperature = 1, .top_p = 0.4}), {{1, 1}});
  expect_shares(shares(kLogits, {.temperature = 1, .min_p = 0.29}), {{1, 5 / 9.0}, {2, 2.5 / 9}, {3, 1.5 / 9}});
  expect_shares(shares(kLogits, {.temperature = 1, .min_p = 1}), {{1, 1}});
  // top-p counts what top-k left: 2/3 of the three kept is 0.6, so the first two (0.75).
  expect_shares(shares(kLogits, {.temperature = 1, .top_k = 3, .top_p = 0.6}), {{1, 2 / 3.0}, {2, 1 / 3.0}});
  expect_shares(shares(kLogits, {.temperature = 1, .top_p = 0.95, .min_p = 0.4}), {{1, 2 / 3.0}, {2, 1 / 3.0}});
}

TEST(ChooseToken, CutsALongVocabularyAsAPlainSortDoes) {
  const CounterRng rng(5);
  std::vector<float> logits(5000);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(2 * rng.normal(i));
  std::vector<std::pair<double, std::int32_t>> order;
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    order.push_back({-logits[i], static_cast<std::int32_t>(i)});
    total += std::exp(static_cast<double>(logits[i]));
  }
  std::sort(order.begin(), order.end());
  double sum = 0;
  std::size_t kept = 0;
  while (sum < 0.8 * total) sum += std::exp(-order[kept++].first);
  ASSERT_GT(kept, 600u) << "must pass several steps of the sorted prefix";
  for (int i = 0; i < 200; ++i) {
    const double uniform = rng.uniform(static_cast<std::uint64_t>(i));
    double at = 0;
    std::size_t wanted = 0;
    for (; wanted + 1 < kept; ++wanted)
      if ((at += std::exp(-order[wanted].first)) > uniform * sum) break;
    EXPECT_EQ(choose_token(logits, {.temperature = 1, .top_p = 0.8}, {}, uniform), order[wanted].second);
  }
}

TEST(ChooseToken, MakesRecentTokensLessLikely) {
  const std::vector<float> logits = {2, 3, -1, 2.5};
  const SamplingOptions options{.repetition_penalty = 2, .repetition_window = 3};
  const auto choose = [&](std::vector<std::int32_t> history) { return choose_token(logits, options, history, 0); };
  EXPECT_EQ(choose({}), 1);
  EXPECT_EQ(choose({1}), 3);
  EXPECT_EQ(choose({1, 0, 3}), 1) << "all halved";
  EXPECT_EQ(choose({1, 2, 2, 2}), 1) << "token 1 has left the window";
  EXPECT_EQ(choose({3, 1, 1}), 0) << "a token counts once, or 1.5 would be 0.75, and either loses to 2";
  // log-probabilities as logits are negative: multiplied.
  expect_shares(shares(kLogits, {.temperature = 1, .repetition_penalty = 2}, std::vector<std::int32_t>{1, 1}),
                {{0, 0.10 / 0.75}, {1, 0.25 / 0.75}, {2, 0.25 / 0.75}, {3, 0.15 / 0.75}});
}

TEST(ChooseToken, RefusesWhatIsOutOfRange) {
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = -1}, SamplingOptions{.temperature = NAN}, SamplingOptions{.top_k = -1},
        SamplingOptions{.top_p = 0}, SamplingOptions{.top_p = 1.1}, SamplingOptions{.min_p = -0.1},
        SamplingOptions{.min_p = 1.1}, SamplingOptions{.repetition_penalty = 0},
        SamplingOptions{.repetition_penalty = 1e-300}, SamplingOptions{.repetition_penalty = 101},
        SamplingOptions{.repetition_window = -1}})
    EXPECT_THROW(validate(options), Error);
  EXPECT_THROW(choose_token(std::vector<float>{1, NAN, 2}, {}, {}, 0), Error);
  EXPECT_THROW(choose_token(std::vector<float>{1, INFINITY, 2}, {}, {}, 0), Error);
  EXPECT_THROW(choose_token({}, {}, {}, 0), Error);
  EXPECT_THROW(choose_token(kLogits, {.repetition_penalty = 2}, std::vector<std::int32_t>{4}, 0), Error);
}

/// The text that comes out when `text` is pushed in pieces of `length` bytes.
std::string streamed(const std::vector<std::string>& stops, std::string_view text, std::size_t length) {
  StopStrings stream(stops);
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += length) out += stream.push(text.substr(at, length));
  return out + stream.finish();
}

TEST(StopStrings, CutTheTextAtTheFirstOneHoweverItComes) {
  struct Case {
    std::vector<std::string> stops;
    std::string text, wanted;
  };
  for (const Case& c :
       {Case{{}, "some text", "some text"}, Case{{"</s>"}, "a</b></s>c", "a</b>"}, Case{{"</s>"}, "a</s", "a</s"},
        Case{{"aab"}, "xaaab", "xa"}, Case{{"abcd", "bc"}, "abcd", "a"}, Case{{"bc", "abc"}, "xabcd", "x"},
        Case{{"\nUser:", "\n\n"}, "yes\nUse it\nUser: no", "yes\nUse it"}, Case{{"ü"}, "Maß\u00fcx", "Maß"}})
    for (std::size_t length = 1; length <= c.text.size(); ++length)
      EXPECT_EQ(streamed(c.stops, c.text, length), c.wanted) << c.text << " by " << length;
}

TEST(StopStrings, HoldBackOnlyWhatMayBeginAStop) {
  StopStrings stream({"stop", "topping"});
  EXPECT_EQ(stream.push("we st"), "we ");
  EXPECT_EQ(stream.push("ay to"), "stay ");
  EXPECT_EQ(stream.push("day s"), "today ");
  EXPECT_EQ(stream.push("to"), "");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push("pped"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("more"), "");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_THROW(StopStrings({"a", ""}), Error);
}

}  // namespace
}  // namespace scalebits
