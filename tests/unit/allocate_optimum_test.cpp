// allocate, the bound and the optimum: hulls against their definition, the bound against the Lagrangian dual found
// another way, the cheapest plan against trying every plan and against a plain dynamic program over bytes.
#include "allocate/optimum.h"

#include "allocate_cases.h"
#include "core/error.h"

#include <gtest/gtest.h>

namespace scalebits {
namespace {

/// Up to 4 blocks of 9 widths or 6 of 4.
CaseShape small_shape(std::uint64_t seed) {
  return seed % 2 == 0 ? shape_of(seed / 2, {.matrices = 2, .blocks = 2})
                       : shape_of(seed / 2, {.matrices = 3, .blocks = 2, .widths = 4});
}

/// Σ min over widths of cost + price · bytes, − price · target: a lower bound at any price, the relaxation's at the
/// best.
double dual(const Choices& choices, std::uint64_t target, double price) {
  double sum = -price * static_cast<double>(target);
  for (const MatrixChoices& matrix : choices)
    for (std::size_t i = 0; i < matrix.cost.size(); ++i) {
      double least = std::numeric_limits<double>::infinity();
      for (int b = matrix.min_width; b <= matrix.max_width; ++b)
        least = std::min(least, matrix.cost[i][std::size_t(b)] + price * matrix.bytes[i][std::size_t(b)]);
      sum += least;
    }
  return sum;
}

/// The dual is concave in the price: its maximum by ternary search.
double best_dual(const Choices& choices, std::uint64_t target) {
  double low = 0, high = 1e3;
  for (int iteration = 0; iteration < 300; ++iteration) {
    const double a = low + (high - low) / 3, b = high - (high - low) / 3;
    if (dual(choices, target, a) < dual(choices, target, b)) {
      low = a;
    } else {
      high = b;
    }
  }
  return dual(choices, target, 0.5 * (low + high));
}

TEST(LowerHull, HasNoPointBelowItAndFallsEverMoreGently) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    const Choices choices = random_choices(shape_of(seed, {.matrices = 1, .blocks = 1}), seed);
    BlockOptions options;
    knapsack_of(choices).options(0, 0, options);
    const Hull hull = lower_hull(options);
    for (int k = 1; k < hull.size; ++k) {
      const auto at = static_cast<std::size_t>(k);
      ASSERT_GT(hull.gain[at], 0);
      ASSERT_LT(hull.gain[at], k > 1 ? hull.gain[at - 1] : INFINITY);
    }
    // At every price, the best option costs what the hull's best corner costs.
    for (const double price : {1e-6, 1e-4, 1e-3, 0.01, 0.1, 1.0, 100.0}) {
      double best = INFINITY, best_corner = INFINITY;
      const auto value = [&](std::size_t w) { return options.cost[w] + price * double(options.bytes[w]); };
      for (int w = options.low; w <= options.high; ++w) best = std::min(best, value(std::size_t(w)));
      for (int k = 0; k < hull.size; ++k) best_corner = std::min(best_corner, value(hull.width[std::size_t(k)]));
      ASSERT_NEAR(best, best_corner, 1e-12 * best);
    }
  }
}

TEST(OptimalityBound, EnclosesTheOptimumAndRoundsOneBlockDown) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const Choices choices = random_choices(small_shape(seed), seed);
    const std::uint64_t target = random_target(choices, seed);
    const OptimalityBound bound = optimality_bound(choices, target);
    const double best = brute_force_cost(choices, target), slack = 1e-12 * (1 + best);
    ASSERT_LE(bytes_of_plan(choices, bound.plan), target);
    ASSERT_NEAR(bound.plan_cost, total_cost(choices, bound.plan), slack);
    ASSERT_LE(bound.lower_bound, best + slack) << seed;
    ASSERT_GE(bound.plan_cost, best - slack) << seed;
    if (bound.plan_cost <= bound.lower_bound + slack) continue;
    bool one_block_apart = false;  // raising one block passes the target, and the bound
    for (std::size_t m = 0; m < choices.size(); ++m)
      for (std::size_t i = 0; i < choices[m].cost.size(); ++i)
        for (int b = choices[m].min_width; b <= choices[m].max_width; ++b) {
          BitPlan raised = bound.plan;
          raised.widths[m][i] = static_cast<std::uint8_t>(b);
          one_block_apart |=
              bytes_of_plan(choices, raised) > target && total_cost(choices, raised) <= bound.lower_bound + slack;
        }
    ASSERT_TRUE(one_block_apart) << seed;
  }
}

TEST(OptimalityBound, IsTheLagrangianDualAtItsBestPrice) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const Choices choices = random_choices(shape_of(seed, {.matrices = 4, .blocks = 20}), seed);
    const std::uint64_t target = random_target(choices, seed);
    const OptimalityBound bound = optimality_bound(choices, target);
    ASSERT_NEAR(bound.lower_bound, best_dual(choices, target), 1e-9 * (1 + bound.plan_cost)) << seed;
  }
}

TEST(SolveExactly, IsTheCheapestOfAllPlans) {
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    const Choices choices = random_choices(small_shape(seed), seed);
    const std::uint64_t target = random_target(choices, seed);
    const OptimalityBound exact = solve_exactly(knapsack_of(choices), target);
    const double best = brute_force_cost(choices, target);
    ASSERT_LE(bytes_of_plan(choices, exact.plan), target);
    ASSERT_NEAR(exact.plan_cost, best, 1e-12 * (1 + best)) << seed;
    ASSERT_EQ(exact.lower_bound, exact.plan_cost);
    ASSERT_NEAR(exact.plan_cost, total_cost(choices, exact.plan), 1e-12 * (1 + best));
  }
}

/// Cheapest cost for every number of bytes, block by block.
double cost_by_bytes(const Choices& choices, std::uint64_t target) {
  std::vector<double> cheapest(target + 1, INFINITY);
  cheapest[0] = 0;
  for (const MatrixChoices& matrix : choices)
    for (std::size_t i = 0; i < matrix.cost.size(); ++i) {
      std::vector<double> next(target + 1, INFINITY);
      for (int b = matrix.min_width; b <= matrix.max_width; ++b)
        for (std::uint64_t bytes = matrix.bytes[i][std::size_t(b)]; bytes <= target; ++bytes)
          next[bytes] =
              std::min(next[bytes], cheapest[bytes - matrix.bytes[i][std::size_t(b)]] + matrix.cost[i][std::size_t(b)]);
      cheapest = std::move(next);
    }
  return *std::min_element(cheapest.begin(), cheapest.end());
}

TEST(SolveExactly, AgreesWithAProgramOverBytesOnManyBlocks) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    CaseShape shape{.matrices = 5, .blocks = 20, .costs = static_cast<Costs>(seed % 4), .bytes = Bytes::any};
    const Choices choices = random_choices(shape, seed);
    const std::uint64_t target = random_target(choices, seed);
    const OptimalityBound exact = solve_exactly(knapsack_of(choices), target);
    const double best = cost_by_bytes(choices, target);
    ASSERT_LE(bytes_of_plan(choices, exact.plan), target);
    ASSERT_NEAR(exact.plan_cost, best, 1e-12 * (1 + best)) << seed;
  }
}

TEST(SolveExactly, SaysHowFarItMayBeOffWhereStatesRunOut) {
  int unproven = 0;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    const Choices choices = random_choices(small_shape(seed), seed);
    const std::uint64_t target = random_target(choices, seed);
    const OptimalityBound plan = solve_exactly(knapsack_of(choices), target, 1);
    const double best = brute_force_cost(choices, target), slack = 1e-12 * (1 + best);
    ASSERT_LE(bytes_of_plan(choices, plan.plan), target);
    ASSERT_LE(plan.lower_bound, best + slack) << seed;
    ASSERT_GE(plan.plan_cost, best - slack) << seed;
    unproven += plan.lower_bound < plan.plan_cost;
  }
  EXPECT_GT(unproven, 50);
}

TEST(Optimum, RefusesWhatCannotBe) {
  const Choices choices = random_choices({.matrices = 1, .blocks = 3, .widths = 4}, 5);
  const std::uint64_t narrowest = bytes_of_plan(choices, extreme_plan(choices, false));
  ASSERT_GT(narrowest, 0u);
  EXPECT_EQ(optimality_bound(choices, narrowest).plan, extreme_plan(choices, false));
  EXPECT_THROW(optimality_bound(choices, narrowest - 1), Error);
  EXPECT_THROW(solve_exactly(knapsack_of(choices), narrowest - 1), Error);
  const auto refused = [&](const std::function<void(Choices&)>& spoil) {
    Choices bad = choices;
    spoil(bad);
    EXPECT_THROW(optimality_bound(bad, 1 << 20), Error);
  };
  const auto at = static_cast<std::size_t>(choices[0].min_width);
  refused([&](Choices& bad) { bad[0].cost[1][at] = std::numeric_limits<float>::quiet_NaN(); });
  refused([&](Choices& bad) { bad[0].cost[1][at] = std::numeric_limits<float>::infinity(); });
  refused([&](Choices& bad) { bad[0].cost[1][at] = -1; });
  refused([&](Choices& bad) { bad[0].max_width = 9; });
  refused([&](Choices& bad) { bad[0].min_width = bad[0].max_width + 1; });
  refused([&](Choices& bad) { bad[0].cost.pop_back(); });
  refused([&](Choices& bad) {
    bad[0].min_width = 1;
    bad[0].max_width = 8;
    bad[0].bytes[2][4] = bad[0].bytes[2][3] - 1;
  });
  EXPECT_EQ(optimality_bound({}, 0).plan, BitPlan{});
  EXPECT_EQ(solve_exactly(knapsack_of({}), 0).plan, BitPlan{});
}

}  // namespace
}  // namespace scalebits
