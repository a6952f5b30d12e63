// train: the integer programme's optimum is that of trying every choice, with and without pipeline stages, and a target
// out of reach is refused with what can be reached.
#include "train/precision_programme.h"

#include "core/error.h"
#include "core/random.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <map>

namespace scalebits {
namespace {

PrecisionProgramme random_programme(std::size_t layers, std::size_t options, std::uint64_t seed) {
  const CounterRng rng(seed);
  std::uint64_t draw = 0;
  PrecisionProgramme programme;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const double flops = 1 + static_cast<double>(rng.below(draw++, 5));
    programme.flops.push_back(flops);
    auto& choices = programme.layers.emplace_back();
    for (std::size_t o = 0; o < options; ++o) {
      const double share = static_cast<double>(o) / static_cast<double>(options - 1);
      choices.push_back({share * share * rng.uniform(draw++) + 0.1 * rng.uniform(draw++), share * flops});
    }
  }
  return programme;
}

bool meets(const PrecisionProgramme& programme, const std::vector<std::size_t>& options) {
  std::map<int, std::pair<double, double>> stages;
  for (std::size_t layer = 0; layer < options.size(); ++layer) {
    auto& [fp4, all] = stages[programme.stages.empty() ? 0 : programme.stages[layer]];
    fp4 += programme.layers[layer][options[layer]].fp4_flops;
    all += programme.flops[layer];
  }
  for (const auto& [number, stage] : stages)
    if (stage.first < programme.target_share * stage.second - 1e-9) return false;
  return true;
}

double cost_of(const PrecisionProgramme& programme, const std::vector<std::size_t>& options) {
  double cost = 0;
  for (std::size_t layer = 0; layer < options.size(); ++layer) cost += programme.layers[layer][options[layer]].cost;
  return cost;
}

double best_by_trying(const PrecisionProgramme& programme) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::size_t> options(programme.layers.size(), 0);
  for (bool more = true; more;) {
    if (meets(programme, options)) best = std::min(best, cost_of(programme, options));
    more = false;
    for (std::size_t layer = 0; layer < options.size() && !more; ++layer) {
      more = ++options[layer] < programme.layers[layer].size();
      if (!more) options[layer] = 0;
    }
  }
  return best;
}

TEST(PrecisionProgramme, IsAsGoodAsTryingEveryChoice) {
  for (std::uint64_t seed = 0; seed < 12; ++seed)
    for (const double target : {0.0, 0.3, 0.5, 0.75, 1.0})
      for (const bool staged : {false, true}) {
        PrecisionProgramme programme = random_programme(6, 3, seed);
        programme.target_share = target;
        if (staged) programme.stages = {0, 0, 1, 1, 2, 2};
        const PrecisionChoice choice = solve(programme);
        EXPECT_TRUE(meets(programme, choice.options)) << "seed " << seed << " target " << target;
        EXPECT_DOUBLE_EQ(choice.cost, cost_of(programme, choice.options));
        const double best = best_by_trying(programme);
        EXPECT_NEAR(choice.cost, best, kPrecisionGap * choice.cost + 1e-12) << "seed " << seed << " target " << target;
        EXPECT_LE(choice.cost - choice.gap, best + 1e-12);
      }
}

TEST(PrecisionProgramme, TinyCostsCountAsMuchAsLargeOnes) {
  PrecisionProgramme programme = random_programme(6, 3, 99);
  programme.target_share = 0.6;
  const PrecisionChoice plain = solve(programme);
  for (auto& options : programme.layers)
    for (PrecisionOption& option : options) option.cost *= 1e-9;
  EXPECT_EQ(solve(programme).options, plain.options);
}

TEST(PrecisionProgramme, OptionsThatNearlyTieAreNotProvenToTheEnd) {
  // Every product costs what its operations are worth within 1%, gradients' add up like noise: CBC alone takes minutes.
  const CounterRng rng(1);
  PrecisionProgramme programme;
  for (std::uint64_t layer = 0; layer < 400; ++layer) {
    const double product = static_cast<double>(layer % 7 < 4 ? 8 : 28);
    double cost[3];
    for (std::uint64_t i = 0; i < 3; ++i) cost[i] = product * (1 + 0.01 * rng.normal(3 * layer + i));
    programme.flops.push_back(3 * product);
    auto& options = programme.layers.emplace_back();
    for (const bool forward : {false, true})
      for (const bool input : {false, true})
        for (const bool weight : {false, true})
          options.push_back({(forward ? cost[0] : 0.01 * cost[0]) + std::hypot(input * cost[1], weight * cost[2]),
                             (forward + input + weight) * product});
  }
  programme.target_share = 0.5;
  const auto start = std::chrono::steady_clock::now();
  const PrecisionChoice choice = solve(programme);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_TRUE(meets(programme, choice.options));
  EXPECT_GT(choice.gap, 0);
  EXPECT_LT(choice.gap, 1e-3 * choice.cost);
  EXPECT_EQ(solve(programme).options, choice.options);
}

TEST(PrecisionProgramme, RefusesWhatCannotBeReached) {
  PrecisionProgramme programme = random_programme(4, 2, 1);
  programme.stages = {0, 0, 7, 7};
  for (std::size_t layer = 2; layer < 4; ++layer) programme.layers[layer].pop_back();
  programme.layers[2][0].fp4_flops = programme.flops[2] * 0.5, programme.layers[3][0].fp4_flops = 0;
  programme.target_share = 0.9;
  const double reach = programme.flops[2] * 0.5 / (programme.flops[2] + programme.flops[3]);
  try {
    solve(programme);
    FAIL() << "solved";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::infeasible_budget);
    const std::string message = error.what();
    EXPECT_NE(message.find("stage 7"), std::string::npos) << message;
    EXPECT_NE(message.find(fmt::format("0 to {:.4f}", reach)), std::string::npos) << message;
  }
}

TEST(PrecisionProgramme, RefusesMalformedOnes) {
  PrecisionProgramme programme = random_programme(3, 2, 1);
  programme.layers[1][0].cost = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(solve(programme), InternalError);
  EXPECT_THROW(solve({}), InternalError);
}

}  // namespace
}  // namespace scalebits
