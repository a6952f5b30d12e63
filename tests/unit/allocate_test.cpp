// allocate: budgets hold, one price per byte is optimal for convex costs, swaps keep the bytes and lower the predicted
// loss, nonsense scores are refused.
#include "allocate/allocation.h"

#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace scalebits {
namespace {

/// Convex costs s · 2^-b, bytes 100 per bit and 10 of side information.
Choices convex_choices(std::size_t matrices, std::size_t blocks, std::uint64_t seed) {
  const CounterRng rng(seed);
  Choices choices;
  std::uint64_t draw = 0;
  for (std::size_t m = 0; m < matrices; ++m) {
    MatrixChoices matrix;
    for (std::size_t i = 0; i < blocks; ++i) {
      const double scale = std::exp(2 * rng.normal(draw++));
      WidthScores cost;
      std::array<std::uint32_t, 9> bytes;
      for (int b = 0; b <= 8; ++b) {
        cost[static_cast<std::size_t>(b)] = static_cast<float>(scale * std::exp2(-b));
        bytes[static_cast<std::size_t>(b)] = b == 0 ? 0 : static_cast<std::uint32_t>(100 * b + 10);
      }
      matrix.cost.push_back(cost);
      matrix.bytes.push_back(bytes);
    }
    choices.push_back(matrix);
  }
  return choices;
}

BitPlan uniform(const Choices& choices, int bits) {
  BitPlan plan;
  for (const MatrixChoices& matrix : choices)
    plan.widths.emplace_back(matrix.cost.size(), static_cast<std::uint8_t>(bits));
  return plan;
}

double total_cost(const Choices& choices, const BitPlan& plan) {
  double cost = 0;
  for (std::size_t m = 0; m < choices.size(); ++m)
    for (std::size_t i = 0; i < choices[m].cost.size(); ++i) cost += choices[m].cost[i][plan.widths[m][i]];
  return cost;
}

constexpr MoveLimits kFree{.lower_by = 8, .raise_by = 8, .raise_trust = 1.0};

TEST(Allocate, NeverExceedsTheBudgetAndLeavesLessThanABlockStep) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Choices choices = convex_choices(3, 40, seed);
    const std::uint64_t low = bytes_of_plan(choices, uniform(choices, 1)),
                        high = bytes_of_plan(choices, uniform(choices, 8));
    const std::uint64_t target = low + CounterRng(seed, 9).below(0, high - low);
    const BitPlan plan = allocate(choices, uniform(choices, 4), target, kFree);
    const std::uint64_t bytes = bytes_of_plan(choices, plan);
    ASSERT_LE(bytes, target);
    ASSERT_GT(bytes + 101, target) << "a block could still be raised";
  }
}

TEST(Allocate, IsOptimalForConvexCosts) {
  // Exhaustive over two blocks' worth of plans on 5 blocks and widths 1..4.
  const Choices choices = [] {
    Choices all = convex_choices(1, 5, 77);
    all[0].max_width = 4;
    return all;
  }();
  const std::uint64_t target = 5 * 10 + 100 * 12;  // 12 bits over five blocks: met exactly
  double best = INFINITY;
  for (int code = 0; code < 1024; ++code) {
    BitPlan plan = uniform(choices, 1);
    for (int i = 0, rest = code; i < 5; ++i, rest /= 4)
      plan.widths[0][static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(1 + rest % 4);
    if (bytes_of_plan(choices, plan) <= target) best = std::min(best, total_cost(choices, plan));
  }
  const BitPlan plan = allocate(choices, uniform(choices, 2), target, kFree);
  EXPECT_NEAR(total_cost(choices, plan), best, 1e-6 * best);
}

TEST(Allocate, KeepsToItsLimits) {
  const Choices choices = convex_choices(2, 30, 3);
  const BitPlan start = uniform(choices, 4);
  const BitPlan plan = allocate(choices, start, 0, {.lower_by = 1, .raise_by = 1});
  EXPECT_EQ(plan, uniform(choices, 3));
  const BitPlan mixed = allocate(choices, start, bytes_of_plan(choices, start), {.lower_by = 1, .raise_by = 1});
  for (const auto& widths : mixed.widths)
    for (const std::uint8_t width : widths) EXPECT_TRUE(width >= 3 && width <= 5);
  EXPECT_LT(total_cost(choices, mixed), total_cost(choices, start));
}

TEST(SwapBits, LowersThePredictedLossAtNoMoreBytes) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const Choices choices = convex_choices(3, 40, seed);
    const BitPlan start = uniform(choices, 4);
    const std::uint64_t bytes = bytes_of_plan(choices, start);
    for (const std::int64_t count : {1, 5, 1000}) {
      const BitPlan plan = swap_bits(choices, start, bytes, count, {});
      ASSERT_LE(bytes_of_plan(choices, plan), bytes);
      ASSERT_LT(total_cost(choices, plan), total_cost(choices, start));
      for (const auto& widths : plan.widths)
        for (const std::uint8_t width : widths) ASSERT_TRUE(width >= 3 && width <= 5);
    }
  }
}

int changed(const BitPlan& a, const BitPlan& b) {
  int count = 0;
  for (std::size_t i = 0; i < a.widths[0].size(); ++i) count += a.widths[0][i] != b.widths[0][i];
  return count;
}

TEST(SwapBits, TriesOnePairWhereNothingIsPredictedToGain) {
  Choices choices = convex_choices(1, 10, 1);
  for (auto& cost : choices[0].cost) cost = choices[0].cost[0];  // all blocks alike
  const BitPlan start = uniform(choices, 4);
  const BitPlan swapped = swap_bits(choices, start, bytes_of_plan(choices, start), 100, {});
  EXPECT_EQ(changed(swapped, start), 2);
  EXPECT_EQ(bytes_of_plan(choices, swapped), bytes_of_plan(choices, start));
}

TEST(SwapBits, KnowsALossFromAGain) {
  Choices choices = convex_choices(1, 10, 1);
  choices[0].cost[3][5] = choices[0].cost[3][4] + 100;  // raising block 3 would hurt most
  choices[0].cost[6][3] = choices[0].cost[6][4] - 100;  // lowering block 6 would help
  const BitPlan start = uniform(choices, 4);
  const BitPlan swapped = swap_bits(choices, start, bytes_of_plan(choices, start), 1, {});
  EXPECT_LE(swapped.widths[0][3], 4);
  EXPECT_EQ(swapped.widths[0][6], 3);
}

TEST(SwapBits, LeavesHeldBlocksAlone) {
  const Choices choices = convex_choices(1, 10, 1);
  const BitPlan start = uniform(choices, 4);
  BitPlan held{{std::vector<std::uint8_t>(10, 1)}};
  EXPECT_EQ(swap_bits(choices, start, bytes_of_plan(choices, start), 100, {.held = &held}), start);
  held.widths[0][2] = held.widths[0][7] = 0;
  const BitPlan swapped = swap_bits(choices, start, bytes_of_plan(choices, start), 100, {.held = &held});
  EXPECT_EQ(changed(swapped, start), 2);
  EXPECT_NE(swapped.widths[0][2], 4);
  EXPECT_NE(swapped.widths[0][7], 4);
}

TEST(Costs, RefusesNonsense) {
  std::vector<WidthScores> scores(1);
  scores[0].fill(1.0f);
  EXPECT_NO_THROW(costs_of(scores, {4}, CostModel::linear));
  for (const float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    scores[0][2] = bad;
    EXPECT_THROW(costs_of(scores, {4}, CostModel::linear), Error);
  }
}

TEST(Costs, QuadraticGrowsWithTheSquareOfTheError) {
  std::vector<WidthScores> scores(1);
  for (std::size_t b = 0; b <= 8; ++b) scores[0][b] = std::exp2f(-static_cast<float>(b));
  const auto costs = costs_of(scores, {4}, CostModel::quadratic);
  EXPECT_FLOAT_EQ(costs[0][4], scores[0][4]);
  EXPECT_FLOAT_EQ(costs[0][3], 4 * scores[0][4]);
}

}  // namespace
}  // namespace scalebits
