// Every allocator in the job itself, and what is done at the widths it decided: budgets are met, one descent serves
// all, tuning brings the divergence down and packs what it measured.
#include "random_job.h"

#include "graph/decoder.h"
#include "pipeline/search_state.h"
#include "refine/refine_model.h"
#include "refine/tune.h"

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
      if (from_frontier) plans[allocator] = result.state.plan;
    }
  }
  for (const auto& [one, plan] : plans)
    for (const auto& [other, other_plan] : plans) EXPECT_TRUE(one == other || plan != other_plan);
}

TEST(Tuning, BringsTheDivergenceDownAndPacksWhatItMeasured) {
  const Checkpoint checkpoint = random_checkpoint(true, false);
  const CalibrationSet calibration = random_calibration();
  Recipe recipe = small_recipe();
  recipe.allocator = Allocator::uniform;
  const Budget budget = budget_for(checkpoint, recipe, kLinearWeights * 28 / 80);
  const SearchResult result = run_search(checkpoint, calibration, recipe, budget, {}, {});
  CheckpointWeights exact(checkpoint);
  Decoder teacher(checkpoint.spec, exact);
  const at::Tensor& ids = calibration.gradient_windows;
  const LossTarget target{LossTarget::Kind::kl, teacher.hidden(ids), exact.head()};
  const auto divergence = [&](const PackedBlobs& blobs) {
    RefinedModel model(checkpoint, result.matrices, blobs);
    model.use(result.state.plan);
    return Decoder(checkpoint.spec, model).loss(ids, target).mean;
  };
  const PackedBlobs nearest(result.matrices.size());
  TuneOptions options{.steps = 12, .windows_per_step = static_cast<int>(ids.size(0)), .rate = 0.1};
  std::vector<double> seen;
  const auto note = [&](int, double value) { seen.push_back(value); };
  const PackedBlobs tuned = tune_codes(checkpoint, result.matrices, result.state.plan, nearest, ids, options, note);
  ASSERT_EQ(seen.size(), 12u);
  EXPECT_NEAR(seen.front(), divergence(nearest), 1e-5 * seen.front()) << "the first step sees the codes it starts from";
  EXPECT_LT(divergence(tuned), 0.8 * seen.front());
  // At a rate too small to leave a cell, no code changes.
  options.rate = 1e-4;
  const PackedBlobs kept = tune_codes(checkpoint, result.matrices, result.state.plan, tuned, ids, options, {});
  EXPECT_EQ(kept, tuned);
}

}  // namespace
}  // namespace scalebits
