// BAQ's water-filling: the closed form, equal losses, the gain; with limits the optimality conditions, and a numerical
// optimiser that knows none of it; and the integer plans that come of it.
#include "allocate/baq.h"

#include "allocate/optimum.h"
#include "allocate_cases.h"
#include "core/error.h"

#include <gtest/gtest.h>

#include <numeric>

namespace scalebits {
namespace {

struct Blocks {
  std::vector<double> c;
  std::vector<std::int64_t> weights;
};

Blocks random_blocks(std::size_t count, std::uint64_t seed, double spread = 3) {
  const CounterRng rng(seed);
  Blocks blocks;
  for (std::size_t t = 0; t < count; ++t) {
    blocks.weights.push_back(1 + static_cast<std::int64_t>(rng.below(3 * t, 4096)));
    blocks.c.push_back(std::exp(spread * (2 * rng.uniform(3 * t + 1) - 1)) * double(blocks.weights.back()));
  }
  return blocks;
}

double mean_of(const std::vector<double>& widths, const Blocks& blocks) {
  double sum = 0, n = 0;
  for (std::size_t t = 0; t < widths.size(); ++t) {
    sum += double(blocks.weights[t]) * widths[t];
    n += double(blocks.weights[t]);
  }
  return sum / n;
}

double loss_of(const std::vector<double>& widths, const Blocks& blocks) {
  double loss = 0;
  for (std::size_t t = 0; t < widths.size(); ++t) loss += blocks.c[t] * std::exp2(-2 * widths[t]);
  return loss;
}

/// Exchanges bits between pairs of blocks by golden section until nothing moves.
double optimised_loss(const Blocks& blocks, double mean, double low, double high) {
  std::vector<double> widths(blocks.c.size(), mean);
  for (int sweep = 0; sweep < 300; ++sweep)
    for (std::size_t a = 0; a < widths.size(); ++a)
      for (std::size_t b = 0; b < a; ++b) {
        const double ratio = double(blocks.weights[a]) / double(blocks.weights[b]), a0 = widths[a], b0 = widths[b];
        const auto loss = [&](double shift) {
          return blocks.c[a] * std::exp2(-2 * (a0 + shift)) + blocks.c[b] * std::exp2(-2 * (b0 - ratio * shift));
        };
        double from = std::max(low - a0, (b0 - high) / ratio), to = std::min(high - a0, (b0 - low) / ratio);
        for (int step = 0; step < 60; ++step) {
          const double x = to - 0.618034 * (to - from), y = from + 0.618034 * (to - from);
          if (loss(x) < loss(y)) {
            to = y;
          } else {
            from = x;
          }
        }
        widths[a] = a0 + 0.5 * (from + to);
        widths[b] = b0 - ratio * 0.5 * (from + to);
      }
  return loss_of(widths, blocks);
}

TEST(WaterFill, IsTheClosedFormWhereNoLimitHolds) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const Blocks blocks = random_blocks(50, seed);
    double logs = 0, n = 0;
    for (std::size_t t = 0; t < 50; ++t) {
      logs += double(blocks.weights[t]) * std::log2(blocks.c[t] / double(blocks.weights[t]));
      n += double(blocks.weights[t]);
    }
    const std::vector<double> widths = water_fill(blocks.c, blocks.weights, 4, -50, 50);
    const double loss_per_weight = blocks.c[0] / double(blocks.weights[0]) * std::exp2(-2 * widths[0]);
    for (std::size_t t = 0; t < 50; ++t) {
      const double density = blocks.c[t] / double(blocks.weights[t]);
      ASSERT_NEAR(widths[t], 4 + 0.5 * (std::log2(density) - logs / n), 1e-12);
      ASSERT_NEAR(density * std::exp2(-2 * widths[t]) / loss_per_weight, 1, 1e-12);
    }
    const double uniform = loss_of(std::vector<double>(50, 4), blocks);
    ASSERT_NEAR(water_filling_gain(blocks.c, blocks.weights), loss_of(widths, blocks) / uniform, 1e-12);
  }
}

TEST(WaterFill, MeetsTheOptimalityConditionsWithinLimits) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    const CounterRng rng(seed, 3);
    const Blocks blocks = random_blocks(1 + rng.below(0, 60), seed, 1 + 10 * rng.uniform(1));
    const double low = double(rng.below(2, 4)), high = low + 4 * rng.uniform(3),
                 mean = low + (high - low) * rng.uniform(4);
    const std::vector<double> widths = water_fill(blocks.c, blocks.weights, mean, low, high);
    ASSERT_NEAR(mean_of(widths, blocks), mean, 1e-12) << seed;
    double most_at_low = 0, least_at_high = INFINITY, least = INFINITY, most = 0;  // loss per weight
    for (std::size_t t = 0; t < widths.size(); ++t) {
      ASSERT_GE(widths[t], low);
      ASSERT_LE(widths[t], high);
      const double loss = blocks.c[t] / double(blocks.weights[t]) * std::exp2(-2 * widths[t]);
      if (widths[t] == low) {
        most_at_low = std::max(most_at_low, loss);
      } else if (widths[t] == high) {
        least_at_high = std::min(least_at_high, loss);
      } else {
        least = std::min(least, loss);
        most = std::max(most, loss);
      }
    }
    ASSERT_LE(most, least * (1 + 1e-11)) << seed;
    ASSERT_LE(most_at_low, std::min(least, least_at_high) * (1 + 1e-11)) << seed;
    ASSERT_GE(least_at_high, most * (1 - 1e-11)) << seed;
  }
}

TEST(WaterFill, IsWhatANumericalOptimiserFinds) {
  for (std::uint64_t seed = 0; seed < 15; ++seed) {
    const Blocks blocks = random_blocks(6, seed, 4);
    for (const auto& [low, high] : {std::pair{1.0, 8.0}, {2.0, 4.0}, {-20.0, 20.0}}) {
      const double loss = loss_of(water_fill(blocks.c, blocks.weights, 3.1, low, high), blocks);
      const double found = optimised_loss(blocks, 3.1, low, high);
      ASSERT_LE(loss, found * (1 + 1e-9));
      ASSERT_NEAR(loss / found, 1, 1e-6);
    }
  }
}

TEST(WaterFill, IsSaneAtTheEdges) {
  const std::vector<std::int64_t> even(4, 64);
  using Widths = std::vector<double>;
  EXPECT_EQ(water_fill(Widths(4, 0.0), even, 3.5, 1, 8), Widths(4, 3.5));
  EXPECT_EQ(water_fill(Widths{0, 5, 5, 0}, even, 3, 1, 8), (Widths{1, 5, 5, 1}));
  EXPECT_EQ(water_fill(Widths{0, 5, 5, 0}, even, 6, 1, 8), (Widths{4, 8, 8, 4}));
  EXPECT_EQ(water_fill(Widths{1, 1, 1, 1e300}, even, 2, 1, 5), (Widths{1, 1, 1, 5}));
  EXPECT_EQ(water_fill(Widths{1, 2, 3, 4}, even, 8, 1, 8), Widths(4, 8));
  for (const double width : water_fill(Widths{1, 2, 3, 4}, even, 1, 1, 8)) EXPECT_NEAR(width, 1, 1e-15);
  EXPECT_EQ(water_fill(Widths{1, 2, 3, 4}, even, 3, 3, 3), Widths(4, 3));
  EXPECT_EQ(water_fill({}, {}, 3, 1, 8), Widths());
  EXPECT_NEAR(mean_of(water_fill(Widths{1e-320, 1e300, 1, 0}, even, 3, 1, 8), {{}, even}), 3, 1e-12);
  EXPECT_EQ(water_filling_gain(Widths(4, 0.0), even), 1);
  EXPECT_EQ(water_filling_gain(Widths(4, 7e305), even), 1);
  EXPECT_EQ(water_filling_gain(Widths{0, 1, 1, 1}, even), 0);
  for (const double bad : {-1.0, double(NAN), double(INFINITY)}) {
    EXPECT_THROW(water_fill(Widths{1, 2, bad, 4}, even, 3, 1, 8), Error);
    EXPECT_THROW(water_filling_gain(Widths{1, 2, bad, 4}, even), Error);
  }
  EXPECT_THROW(water_fill(Widths{1}, std::vector<std::int64_t>{0}, 3, 1, 8), Error);
  for (const double bad : {0.5, 8.5, double(NAN)}) EXPECT_THROW(water_fill(Widths(4, 1.0), even, bad, 1, 8), Error);
}

// ---- integer plans ------------------------------------------------------------------------------------------------

/// 16 bytes per bit and no side information, so that bytes are weights: what the water-filling assumes.
Choices plain_choices(const std::vector<std::size_t>& blocks) {
  Choices choices;
  for (const std::size_t count : blocks) {
    MatrixChoices matrix;
    matrix.bytes.resize(count);
    for (auto& bytes : matrix.bytes)
      for (std::uint32_t b = 0; b <= 8; ++b) bytes[b] = 16 * b;
    choices.push_back(std::move(matrix));
  }
  return choices;
}

std::vector<std::vector<double>> random_losses(const Choices& choices, std::uint64_t seed, double spread = 3) {
  const CounterRng rng(seed, 17);
  std::uint64_t draw = 0;
  std::vector<std::vector<double>> losses;
  for (const MatrixChoices& matrix : choices) {
    losses.emplace_back();
    for (std::size_t i = 0; i < matrix.bytes.size(); ++i)
      losses.back().push_back(std::exp(spread * (2 * rng.uniform(draw++) - 1)));
  }
  return losses;
}

TEST(AllocateBaq, RoundsTheWaterFilledWidths) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const Choices choices = plain_choices({200});
    const auto losses = random_losses(choices, seed, 4);
    const std::vector<double> widths =
        water_fill(losses[0], std::vector<std::int64_t>(200, 128), 1.5 + 0.02 * double(seed), 1, 8);
    const auto target = static_cast<std::uint64_t>(16 * std::reduce(widths.begin(), widths.end()) + 0.5);
    const BitPlan plan = allocate_baq(choices, losses, target, BaqScope::model);
    ASSERT_LE(bytes_of_plan(choices, plan), target);
    ASSERT_GT(bytes_of_plan(choices, plan) + 16, target);
    for (std::size_t i = 0; i < 200; ++i) ASSERT_LT(std::abs(plan.widths[0][i] - widths[i]), 1) << seed;
  }
}

TEST(AllocateBaq, IsAsGoodAsTheOptimumButForOneBlock) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Choices choices = random_choices(shape_of(seed, {.matrices = 4, .blocks = 12}), seed);
    const auto losses = random_losses(choices, seed);
    double largest_step = 0;
    for (std::size_t m = 0; m < choices.size(); ++m)
      for (std::size_t i = 0; i < losses[m].size(); ++i) {
        for (int b = 0; b <= 8; ++b) choices[m].cost[i][std::size_t(b)] = float(losses[m][i] * std::exp2(-2 * b));
        largest_step = std::max(largest_step, losses[m][i] * std::exp2(-2 * choices[m].min_width));
      }
    const std::uint64_t target = random_target(choices, seed);
    const BitPlan plan = allocate_baq(choices, losses, target, BaqScope::model);
    const OptimalityBound bound = optimality_bound(choices, target);
    ASSERT_LE(total_cost(choices, plan), bound.plan_cost * (1 + 1e-6)) << seed;
    ASSERT_LE(total_cost(choices, plan), bound.lower_bound + largest_step) << seed;
  }
}

double mean_width(const std::vector<std::uint8_t>& widths) {
  return double(std::accumulate(widths.begin(), widths.end(), 0)) / double(widths.size());
}

TEST(AllocateBaq, GivesEveryLayerTheSameMeanOrTheModelOnePrice) {
  const Choices choices = plain_choices({100, 0, 50, 200});
  auto losses = random_losses(choices, 4);
  for (double& c : losses[2]) c *= 1000;
  const std::uint64_t target = 350 * 16 * 3 + 16 * 10;
  const BitPlan layer = allocate_baq(choices, losses, target, BaqScope::layer),
                model = allocate_baq(choices, losses, target, BaqScope::model);
  for (const std::size_t m : {0u, 2u, 3u}) EXPECT_NEAR(mean_width(layer.widths[m]), 3 + 10.0 / 350, 0.041);
  EXPECT_GT(mean_width(model.widths[2]), 5.5);
  EXPECT_LT(mean_width(model.widths[0]), 3);
  EXPECT_EQ(bytes_of_plan(choices, layer), target);
  EXPECT_EQ(bytes_of_plan(choices, model), target);
  // Inside a layer the plan is the one that the layer alone would get.
  const Choices alone = plain_choices({100});
  const std::uint64_t share = 16 * std::accumulate(layer.widths[0].begin(), layer.widths[0].end(), 0u);
  EXPECT_EQ(allocate_baq(alone, {losses[0]}, share, BaqScope::model).widths[0], layer.widths[0]);
}

TEST(AllocateBaq, IsSaneAtTheEdges) {
  const Choices choices = plain_choices({4, 4});
  const std::uint64_t target = 16 * 24;
  using Losses = std::vector<std::vector<double>>;
  const auto widths = [&](const Losses& c) { return allocate_baq(choices, c, target, BaqScope::model).widths; };
  using Widths = std::vector<std::vector<std::uint8_t>>;
  EXPECT_EQ(widths({{0, 0, 0, 0}, {0, 0, 0, 0}}), (Widths{{1, 1, 1, 1}, {1, 1, 1, 1}}));  // nothing to gain
  EXPECT_EQ(widths({{0, 3, 3, 0}, {0, 0, 0, 0}}), (Widths{{1, 8, 8, 1}, {1, 1, 1, 1}}));
  EXPECT_EQ(widths({{1, 1, 1, 1}, {1, 1, 1, 1}}), (Widths{{3, 3, 3, 3}, {3, 3, 3, 3}}));
  const auto huge = widths({{1, 1, 1, 1e300}, {1, 1, 1, 1}});
  EXPECT_EQ(huge[0][3], 8);
  EXPECT_EQ(mean_width(huge[0]) + mean_width(huge[1]), 6);
  for (const BaqScope scope : {BaqScope::model, BaqScope::layer}) {
    for (const double bad : {-1.0, double(NAN), double(INFINITY)})
      EXPECT_THROW(allocate_baq(choices, {{1, 1, 1, 1}, {1, bad, 1, 1}}, target, scope), Error);
    EXPECT_THROW(allocate_baq(choices, {{1, 1, 1, 1}}, target, scope), Error);
    EXPECT_THROW(allocate_baq(choices, {{1, 1, 1, 1}, {1, 1}}, target, scope), Error);
    try {
      allocate_baq(choices, {{1, 1, 1, 1}, {1, 1, 1, 1}}, 16 * 8 - 1, scope);
      FAIL() << "a budget below the narrowest plan was met";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::infeasible_budget);
    }
  }
}

}  // namespace
}  // namespace scalebits
