// All allocators behind their one call: budgets and ranges hold, nothing useful is left unspent, the scale of the
// scores does not matter, nonsense is refused; the baselines are what their names say.
#include "allocate/allocators.h"

#include "allocate/baselines.h"
#include "allocate_cases.h"
#include "core/error.h"

#include <gtest/gtest.h>

namespace scalebits {
namespace {

constexpr Allocator kAll[] = {
    Allocator::scalebits, Allocator::baq,        Allocator::baq_layer, Allocator::fisher_quantile,
    Allocator::uniform,   Allocator::per_tensor, Allocator::exact};

AllocationProblem random_problem(const CaseShape& shape, std::uint64_t seed) {
  AllocationProblem problem;
  problem.choices = random_choices(shape, seed);
  problem.target_bytes = random_target(problem.choices, seed);
  problem.start = extreme_plan(problem.choices, seed % 2 == 0);
  problem.limits = {.lower_by = 8, .raise_by = 8};
  const CounterRng rng(seed, 31);
  std::uint64_t draw = 0;
  for (const MatrixChoices& matrix : problem.choices) {
    problem.baq_loss.emplace_back();
    for (std::size_t i = 0; i < matrix.bytes.size(); ++i)
      problem.baq_loss.back().push_back(seed % 7 == 0 ? 0 : std::exp(6 * rng.uniform(draw++) - 3));
  }
  problem.salience = problem.baq_loss;
  return problem;
}

/// What the allocator minimises, for one block (per-tensor and exact: the costs).
double own_cost(Allocator allocator, const AllocationProblem& problem, std::size_t m, std::size_t i, int width) {
  if (allocator == Allocator::baq || allocator == Allocator::baq_layer)
    return problem.baq_loss[m][i] * std::exp2(-2 * width);
  return problem.choices[m].cost[i][static_cast<std::size_t>(width)];
}

/// Whether a raise of one block would fit into what the plan leaves and lower the allocator's cost.
bool leaves_a_raise(Allocator allocator, const AllocationProblem& problem, const BitPlan& plan) {
  const std::uint64_t left = problem.target_bytes - bytes_of_plan(problem.choices, plan);
  for (std::size_t m = 0; m < plan.widths.size(); ++m)
    for (std::size_t i = 0; i < plan.widths[m].size(); ++i)
      for (int width = plan.widths[m][i] + 1; width <= problem.choices[m].max_width; ++width) {
        const auto& bytes = problem.choices[m].bytes[i];
        if (bytes[std::size_t(width)] - bytes[plan.widths[m][i]] <= left &&
            own_cost(allocator, problem, m, i, width) < own_cost(allocator, problem, m, i, plan.widths[m][i]))
          return true;
      }
  return false;
}

TEST(Allocators, KeepBudgetsAndRangesAndLeaveNothingUsefulUnspent) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const AllocationProblem problem = random_problem(shape_of(seed, {.matrices = 4, .blocks = 12}), seed);
    for (const Allocator allocator : kAll) {
      const BitPlan plan = allocate_with(allocator, problem);
      ASSERT_EQ(plan.widths.size(), problem.choices.size());
      for (std::size_t m = 0; m < plan.widths.size(); ++m) {
        ASSERT_EQ(plan.widths[m].size(), problem.choices[m].bytes.size());
        for (const std::uint8_t width : plan.widths[m]) {
          ASSERT_GE(width, problem.choices[m].min_width);
          ASSERT_LE(width, problem.choices[m].max_width);
        }
      }
      ASSERT_LE(bytes_of_plan(problem.choices, plan), problem.target_bytes) << name_of(allocator) << " " << seed;
      const bool spends_all = allocator == Allocator::scalebits || allocator == Allocator::baq ||
                              allocator == Allocator::baq_layer || allocator == Allocator::exact;
      ASSERT_FALSE(spends_all && leaves_a_raise(allocator, problem, plan)) << name_of(allocator) << " " << seed;
    }
  }
}

TEST(Allocators, AreOrderedByWhatTheyMayChoose) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const AllocationProblem problem = random_problem(shape_of(seed, {.matrices = 4, .blocks = 12}), seed);
    const auto cost = [&](Allocator allocator) {
      return total_cost(problem.choices, allocate_with(allocator, problem));
    };
    const double slack = 1e-12 * (1 + cost(Allocator::uniform));
    const OptimalityBound bound = optimality_bound(problem.choices, problem.target_bytes);
    ASSERT_GE(cost(Allocator::exact), bound.lower_bound - slack);
    ASSERT_LE(cost(Allocator::scalebits), bound.plan_cost + slack) << "the limits leave all widths open";
    ASSERT_LE(cost(Allocator::per_tensor), cost(Allocator::uniform) + slack);
    for (const Allocator allocator : kAll) ASSERT_LE(cost(Allocator::exact), cost(allocator) + slack) << seed;
  }
}

TEST(Allocators, DoNotDependOnTheScaleOfTheScores) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const AllocationProblem problem = random_problem(shape_of(seed, {.matrices = 4, .blocks = 12}), seed);
    for (const int power : {-70, -3, 1, 60}) {
      AllocationProblem scaled = problem;
      for (std::size_t m = 0; m < scaled.choices.size(); ++m)
        for (std::size_t i = 0; i < scaled.baq_loss[m].size(); ++i) {
          for (float& cost : scaled.choices[m].cost[i]) cost = std::ldexp(cost, power);
          scaled.baq_loss[m][i] = std::ldexp(scaled.baq_loss[m][i], 10 * power);
          scaled.salience[m][i] = std::ldexp(scaled.salience[m][i], 10 * power);
        }
      for (const Allocator allocator : kAll)
        ASSERT_EQ(allocate_with(allocator, scaled), allocate_with(allocator, problem))
            << name_of(allocator) << " " << seed << " times 2^" << power;
    }
  }
}

TEST(Allocators, TakeOrRefuseWhatIsDegenerate) {
  for (const Costs costs : {Costs::zero, Costs::ties}) {  // many blocks at one price
    AllocationProblem problem = random_problem({.matrices = 3, .blocks = 3000, .costs = costs}, 21);
    for (const Allocator allocator : kAll)
      EXPECT_LE(bytes_of_plan(problem.choices, allocate_with(allocator, problem)), problem.target_bytes);
  }
  AllocationProblem problem = random_problem({.matrices = 2, .blocks = 6, .widths = 5}, 2);
  const auto at = static_cast<std::size_t>(problem.choices[0].min_width);
  const float good = problem.choices[0].cost[3][at];
  for (const double bad : {-1.0, double(NAN), double(INFINITY)}) {
    problem.choices[0].cost[3][at] = static_cast<float>(bad);
    for (const Allocator allocator : {Allocator::scalebits, Allocator::per_tensor, Allocator::exact})
      EXPECT_THROW(allocate_with(allocator, problem), Error) << name_of(allocator);
    problem.choices[0].cost[3][at] = good;
    problem.baq_loss[0][3] = problem.salience[0][3] = bad;
    for (const Allocator allocator : {Allocator::baq, Allocator::baq_layer, Allocator::fisher_quantile})
      EXPECT_THROW(allocate_with(allocator, problem), Error) << name_of(allocator);
    problem.baq_loss[0][3] = problem.salience[0][3] = 1;
  }
  problem.salience.pop_back();
  EXPECT_THROW(allocate_with(Allocator::fisher_quantile, problem), Error);
  for (const Allocator allocator : kAll) EXPECT_EQ(allocate_with(allocator, {}), BitPlan{}) << name_of(allocator);
}

TEST(Allocators, SayWhenABudgetCannotBeMet) {
  AllocationProblem problem = random_problem({.matrices = 2, .blocks = 6, .widths = 5}, 2);
  const BitPlan narrowest = extreme_plan(problem.choices, false);
  problem.target_bytes = bytes_of_plan(problem.choices, narrowest);
  for (const Allocator allocator : kAll) EXPECT_EQ(allocate_with(allocator, problem), narrowest) << name_of(allocator);
  --problem.target_bytes;
  for (const Allocator allocator : kAll) {
    if (allocator == Allocator::scalebits) continue;
    try {
      allocate_with(allocator, problem);
      ADD_FAILURE() << name_of(allocator) << " met a budget below the narrowest plan";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::infeasible_budget);
    }
  }
  EXPECT_EQ(allocate_with(Allocator::scalebits, problem), narrowest);
}

TEST(Allocators, HaveNames) {
  for (const Allocator allocator : kAll) EXPECT_EQ(allocator_from_name(name_of(allocator)), allocator);
  EXPECT_THROW(allocator_from_name("best"), Error);
}

TEST(Uniform, IsTheWidestThatFits) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const AllocationProblem problem = random_problem(shape_of(seed, {.matrices = 4, .blocks = 6}), seed);
    BitPlan widest;
    for (int width = 0; width <= 8; ++width) {
      BitPlan plan = extreme_plan(problem.choices, false);
      for (std::size_t m = 0; m < plan.widths.size(); ++m)
        for (std::uint8_t& bits : plan.widths[m])
          bits =
              static_cast<std::uint8_t>(std::clamp(width, problem.choices[m].min_width, problem.choices[m].max_width));
      if (bytes_of_plan(problem.choices, plan) <= problem.target_bytes) widest = plan;
    }
    ASSERT_EQ(allocate_with(Allocator::uniform, problem), widest);
  }
}

TEST(FisherQuantile, SplitsTwoNeighbouringWidthsAtOneSalience) {
  for (std::uint64_t seed = 1; seed < 200; ++seed) {
    AllocationProblem problem = random_problem({.matrices = 3, .blocks = 40, .widths = 1}, seed);
    for (MatrixChoices& matrix : problem.choices) {
      matrix.min_width = 1;
      matrix.max_width = 8;
      for (auto& bytes : matrix.bytes)
        for (std::uint32_t b = 0; b <= 8; ++b) bytes[b] = 100 * b;
    }
    const BitPlan uniform4 = [&] {
      BitPlan plan = extreme_plan(problem.choices, false);
      for (auto& widths : plan.widths) std::fill(widths.begin(), widths.end(), std::uint8_t{4});
      return plan;
    }();
    const std::size_t raised = seed % 40;
    problem.target_bytes = bytes_of_plan(problem.choices, uniform4) + 100 * raised + 99;
    const BitPlan plan = allocate_with(Allocator::fisher_quantile, problem);
    std::size_t count = 0;
    double least_raised = INFINITY, most_left = 0;
    for (std::size_t m = 0; m < plan.widths.size(); ++m)
      for (std::size_t i = 0; i < plan.widths[m].size(); ++i) {
        ASSERT_TRUE(plan.widths[m][i] == 4 || plan.widths[m][i] == 5);
        count += plan.widths[m][i] == 5;
        double& extreme = plan.widths[m][i] == 5 ? least_raised : most_left;
        extreme = plan.widths[m][i] == 5 ? std::min(extreme, problem.salience[m][i])
                                         : std::max(extreme, problem.salience[m][i]);
      }
    ASSERT_EQ(count, raised);
    ASSERT_GE(least_raised, most_left);
  }
}

TEST(PerTensor, IsTheCheapestOfAllMixes) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    const AllocationProblem problem = random_problem(shape_of(seed, {.matrices = 4, .blocks = 6}), seed);
    Choices mixes;  // one block per matrix, its costs and bytes summed
    for (const MatrixChoices& matrix : problem.choices) {
      MatrixChoices whole{{WidthScores{}}, {{}}, matrix.min_width, matrix.max_width};
      mixes.push_back(whole);
    }
    double best = INFINITY;
    each_plan(mixes, [&](const BitPlan& mix) {
      BitPlan plan;
      for (std::size_t m = 0; m < mix.widths.size(); ++m)
        plan.widths.emplace_back(problem.choices[m].bytes.size(), mix.widths[m][0]);
      if (bytes_of_plan(problem.choices, plan) <= problem.target_bytes)
        best = std::min(best, total_cost(problem.choices, plan));
    });
    const OptimalityBound found = allocate_per_tensor(problem.choices, problem.target_bytes);
    for (const auto& widths : found.plan.widths)
      for (const std::uint8_t width : widths) ASSERT_EQ(width, widths[0]);
    ASSERT_NEAR(found.plan_cost, best, 1e-12 * (1 + best)) << seed;
    ASSERT_NEAR(total_cost(problem.choices, found.plan), best, 1e-12 * (1 + best));
    ASSERT_EQ(found.lower_bound, found.plan_cost);
  }
}

TEST(PerTensor, IsSolvedForAsManyMatricesAsModelsHave) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    AllocationProblem problem = random_problem({.matrices = 300, .blocks = 50, .costs = Costs::noisy}, seed);
    const std::uint64_t narrowest = bytes_of_plan(problem.choices, extreme_plan(problem.choices, false)),
                        widest = bytes_of_plan(problem.choices, extreme_plan(problem.choices, true));
    problem.target_bytes = narrowest + (widest - narrowest) * (seed + 1) / 12 + 77;
    const OptimalityBound found = allocate_per_tensor(problem.choices, problem.target_bytes);
    EXPECT_LE(bytes_of_plan(problem.choices, found.plan), problem.target_bytes);
    EXPECT_EQ(found.lower_bound, found.plan_cost) << "not proven optimal";
    EXPECT_LT(found.plan_cost, total_cost(problem.choices, allocate_with(Allocator::uniform, problem)));
  }
}

}  // namespace
}  // namespace scalebits
