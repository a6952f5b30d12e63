// Contract of src/sampling: a draw of a uniform number has the probabilities that the options describe (counted over an
// even grid of uniform numbers, so the counts are exact up to one cell per border), and is that of a plain loop in f64
// but where rounding decides; stop strings come out the same however the text was cut.
#include "core/error.h"
#include "core/random.h"
#include "sampling/sampler.h"
#include "sampling/stop_strings.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <map>
#include <numeric>

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

/// What the header describes, step by step over all tokens in f64.
struct PlainDraw {
  std::vector<std::int32_t> ids;  // in the order in which they are drawn
  std::vector<double> weights;

  PlainDraw(std::span<const float> logits, const SamplingOptions& options) {
    const auto logit = [&](std::int32_t id) { return static_cast<double>(logits[static_cast<std::size_t>(id)]); };
    const double largest = *std::max_element(logits.begin(), logits.end());
    const auto weight = [&](std::int32_t id) { return std::exp((logit(id) - largest) / options.temperature); };
    ids.resize(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    if (options.top_k > 0 || options.top_p < 1 || options.min_p > 0)
      std::stable_sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) { return logit(a) > logit(b); });
    if (options.top_k > 0) ids.resize(std::min(ids.size(), static_cast<std::size_t>(options.top_k)));
    double total = 0, sum = 0;
    for (const std::int32_t id : ids) total += weight(id);
    for (const std::int32_t id : ids) {
      if (weight(id) < options.min_p) break;
      weights.push_back(weight(id));
      sum += weights.back();
      if (options.top_p < 1 && sum >= options.top_p * total) break;
    }
    ids.resize(weights.size());
  }

  /// Whether `uniform` draws `id`, or would if it or the sum of all were wrong by no more than `error` of all.
  bool may_give(std::int32_t id, double uniform, double error) const {
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    double before = 0;
    for (std::size_t i = 0; i < ids.size(); before += weights[i++])
      if (ids[i] == id)
        return weights[i] > 0 && before <= (uniform + error) * total &&
               before + weights[i] >= (uniform - error) * total;
    return false;
  }
};

/// `error` is what f32 may lose of a sum of weights: 1e-7 of exponents of up to 87, and some units of the last place.
void expect_plain_draws(Sampler& sampler, std::span<const float> logits, const SamplingOptions& options,
                        const std::string& what) {
  constexpr double kError = 2e-5;
  const PlainDraw plain(logits, options);
  std::vector<PlainDraw> nearly;  // with one token more or less, where sums are near the border
  for (const double factor : {1 - kError, 1 + kError}) {
    SamplingOptions other = options;
    if (options.top_p < 1) other.top_p = std::min(1 - 1e-15, options.top_p * factor);  // 1 would not be a cut
    if (options.min_p > 0) other.min_p = std::min(1.0, options.min_p * factor);
    if (other != options) nearly.emplace_back(logits, other);
  }
  const CounterRng rng(11);
  for (std::uint64_t i = 0; i < 8; ++i) {
    const double uniform = i == 0 ? 0 : i == 1 ? 1 - 0x1p-53 : rng.uniform(i);
    const std::int32_t found = sampler.choose(logits, options, {}, uniform);
    const bool right = plain.may_give(found, uniform, kError) ||
                       std::any_of(nearly.begin(), nearly.end(),
                                   [&](const PlainDraw& draw) { return draw.may_give(found, uniform, 2 * kError); });
    EXPECT_TRUE(right) << what << ", uniform " << uniform << ", gave " << found;
    EXPECT_EQ(choose_token(logits, options, {}, uniform), found) << "depends on choices before";
  }
}

TEST(ChooseToken, DrawsWhatAPlainLoopDraws) {
  Sampler sampler;  // one for all, so that what it holds of one choice meets the next
  const CounterRng rng(6);
  std::uint64_t number = 0;
  for (const std::size_t vocab : {1, 2, 7, 8, 31, 33, 100, 700})
    for (const double spread : {0.0, 3.0, 30.0})
      for (const double step : {0.0, 0.5}) {  // with a step many are equal
        std::vector<float> logits(vocab);
        for (float& logit : logits) {
          const double value = spread * rng.normal(number++);
          logit = static_cast<float>(step > 0 ? std::round(value / step) * step : value);
        }
        for (const double temperature : {1e-300, 1e-3, 0.3, 1.0, 4.0, 1e6, 1e300})
          for (const int top_k : {0, 1, 3, static_cast<int>(vocab / 2), 1 << 30})
            for (const auto& [top_p, min_p] : {std::pair{1.0, 0.0},
                                               {0.95, 0.0},
                                               {0.5, 0.0},
                                               {1e-300, 0.0},
                                               {1 - 1e-9, 0.0},
                                               {1.0, 0.05},
                                               {1.0, 1.0},
                                               {1.0, 1e-300},
                                               {0.9, 0.02},
                                               {0.3, 0.5}})
              expect_plain_draws(sampler, logits,
                                 {.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p},
                                 fmt::format("{} logits, spread {}, step {}, temperature {}, k {}, p {}, min {}", vocab,
                                             spread, step, temperature, top_k, top_p, min_p));
      }
}

TEST(ChooseToken, CutsAVocabularyOfAnyShapeAsAPlainLoopDoes) {
  constexpr std::size_t kVocab = 50000;
  const CounterRng rng(7), places(8);
  Sampler sampler;
  for (const bool peaked : {false, true}) {
    std::vector<float> logits(kVocab);
    for (std::size_t i = 0; i < kVocab; ++i) logits[i] = static_cast<float>(2 * rng.normal(i));
    for (std::uint64_t i = 0; peaked && i < 40; ++i) logits[places.below(i, kVocab)] = 17 - static_cast<float>(i) / 4;
    for (const SamplingOptions& options :
         {SamplingOptions{.temperature = 0.7, .top_p = 0.95}, SamplingOptions{.temperature = 1},
          SamplingOptions{.temperature = 1, .top_k = 40},
          SamplingOptions{.temperature = 1, .top_k = 3000, .top_p = 0.9},
          SamplingOptions{.temperature = 2, .top_k = 20000, .min_p = 0.01},
          SamplingOptions{.temperature = 1, .min_p = 0.05}, SamplingOptions{.temperature = 50, .top_p = 0.99}})
      expect_plain_draws(sampler, logits, options,
                         fmt::format("peaked {}, temperature {}, k {}, p {}, min {}", peaked, options.temperature,
                                     options.top_k, options.top_p, options.min_p));
  }
}

TEST(ChooseToken, LeavesOutWhatIsImpossible) {
  // e^-100 of one: of thousands of them none may come, not even for the least uniform number.
  std::vector<float> logits(5000, -100.0f);
  logits[4321] = 0;
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = 1}, SamplingOptions{.temperature = 1, .top_k = 100},
        SamplingOptions{.temperature = 1, .top_p = 0.9999999}, SamplingOptions{.temperature = 1, .min_p = 1e-60}})
    for (const double uniform : {0.0, 0.5, 1 - 0x1p-53}) EXPECT_EQ(choose_token(logits, options, {}, uniform), 4321);
  // The farthest apart that logits can be.
  for (const double temperature : {1e-300, 1.0, 1e30})
    for (const int top_k : {0, 2})
      EXPECT_EQ(choose_token(std::vector<float>{-FLT_MAX, FLT_MAX, -FLT_MAX},
                             {.temperature = temperature, .top_k = top_k, .top_p = 0.999}, {}, 0),
                1);
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
