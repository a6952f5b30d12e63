// Every allocator in the job itself: budgets are met, and one descent serves all.
#include "random_job.h"

#include <gtest/gtest.h>

#include <map>

namespace scalebits {
namespace {

constexpr Allocator kAtOnce[] = {Allocator::exact, Allocator::per_tensor, Allocator::fisher_quantile,
                                 Allocator::baq,   Allocator::baq_layer,  Allocator::uniform};

TEST(Allocators, MeetTheBudgetAloneAndFromOneDescent) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  const CalibrationSet calibration = random_calibration();
  Recipe recipe = small_recipe();
  recipe.start_bits = 5;
  const Budget low = budget_for(checkpoint, recipe, kLinearWeights * 28 / 80);
  const SearchResult descent = run_search(checkpoint, calibration, recipe, low, {}, {});
  const Budget budget = budget_for(checkpoint, recipe, kLinearWeights * 36 / 80);
  const auto stored = [&](const SearchResult& result) {
    return budget.stored_bytes(result.state.partition, result.matrices, result.state.plan);
  };
  std::map<Allocator, BitPlan> plans;
  for (const Allocator allocator : kAtOnce) {
    recipe.allocator = allocator;
    for (const bool from_frontier : {false, true}) {
      const SearchResult result = from_frontier
                                      ? plan_from_frontier(checkpoint, calibration, recipe, budget, descent.state, {})
                                      : run_search(checkpoint, calibration, recipe, budget, {}, {});
      EXPECT_LE(stored(result), budget.bytes) << name_of(allocator);
      // Those that fill the budget, but for a block; the paper's own form leaves a little in every matrix.
      if (allocator == Allocator::exact || allocator == Allocator::baq || allocator == Allocator::fisher_quantile) {
        EXPECT_GT(stored(result) + 16 * 64 / 8 + 64, budget.bytes) << name_of(allocator);
      }
      EXPECT_GT(result.state.best_validation_loss, 0);
      if (!from_frontier) continue;
      plans[allocator] = result.state.plan;
      // By the costs that the exact one goes by, nobody is better, and it is as good as anybody can be.
      EXPECT_GE(result.cost, result.least_cost) << name_of(allocator);
      if (allocator == Allocator::exact) {
        EXPECT_NEAR(result.cost, result.least_cost, 0.01 * result.least_cost);
      }
      if (allocator == Allocator::per_tensor) {
        EXPECT_GT(result.cost, 1.01 * result.least_cost);
      }
    }
  }
  for (const auto& [one, plan] : plans)
    for (const auto& [other, other_plan] : plans) EXPECT_TRUE(one == other || plan != other_plan);
}

TEST(Allocators, MeetTheSmallestBudgetThatIsCalledFeasible) {
  const Checkpoint checkpoint = random_checkpoint(true, false);
  const CalibrationSet calibration = random_calibration();
  Recipe recipe = small_recipe();
  recipe.bpw.reset();
  recipe.budget_bytes = 1;
  recipe.embedding = EmbeddingMode::search;
  recipe.min_embedding_width = 1;
  std::uint64_t smallest = 0;
  try {
    require_feasible(checkpoint, recipe, budget_for(checkpoint, recipe, 1));
  } catch (const Error& error) {
    const std::string text = error.what(), before = "feasible are ";
    smallest = std::stoull(text.substr(text.find(before) + before.size()));
  }
  ASSERT_GT(smallest, 1000u);
  for (const Allocator allocator : kAtOnce) {
    recipe.allocator = allocator;
    for (const std::uint64_t bytes : {smallest, smallest + 1, smallest + 40}) {
      const Budget budget = budget_for(checkpoint, recipe, bytes);
      const SearchResult result = run_search(checkpoint, calibration, recipe, budget, {}, {});
      EXPECT_LE(budget.stored_bytes(result.state.partition, result.matrices, result.state.plan), bytes)
          << name_of(allocator);
    }
  }
}

TEST(Allocators, GoOnFromAnInterruptedScoringToTheSamePlan) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  const CalibrationSet calibration = random_calibration();
  for (const Allocator allocator : {Allocator::exact, Allocator::fisher_quantile}) {
    Recipe recipe = small_recipe();
    recipe.allocator = allocator;
    const Budget budget = budget_for(checkpoint, recipe, kLinearWeights * 36 / 80);
    const SearchResult whole = run_search(checkpoint, calibration, recipe, budget, {}, {});
    SearchState saved;
    SearchCallbacks callbacks;
    callbacks.save_state = [&](const SearchState& state) { saved = state; };
    callbacks.progress = [&](const ProgressReport& report) {
      if (report.stage == "scoring") interrupt_requested = true;
    };
    EXPECT_THROW(run_search(checkpoint, calibration, recipe, budget, {}, callbacks), Error);
    interrupt_requested = false;
    const SearchResult resumed = run_search(checkpoint, calibration, recipe, budget, std::move(saved), {});
    EXPECT_EQ(resumed.state.plan, whole.state.plan) << name_of(allocator);
    EXPECT_EQ(resumed.state.next_window, whole.state.next_window) << name_of(allocator);
  }
}

TEST(Frontier, PlansTheSameWithoutMeasuringAndWithMatricesAtHand) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  const CalibrationSet calibration = random_calibration();
  Recipe recipe = small_recipe();
  const SearchResult descent =
      run_search(checkpoint, calibration, recipe, budget_for(checkpoint, recipe, kLinearWeights * 28 / 80), {}, {});
  const Budget budget = budget_for(checkpoint, recipe, kLinearWeights * 30 / 80);
  SearchResult measured = plan_from_frontier(checkpoint, calibration, recipe, budget, descent.state, {});
  const SearchResult planned =
      plan_from_frontier(checkpoint, {}, recipe, budget, descent.state, {}, std::move(measured.matrices));
  EXPECT_EQ(planned.state.plan, measured.state.plan);
  EXPECT_GT(measured.state.best_validation_loss, 0);
  EXPECT_EQ(planned.state.best_validation_loss, 0);
}

}  // namespace
}  // namespace scalebits
