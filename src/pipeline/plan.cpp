#include "pipeline/plan.h"

#include "checkpoint/read_checkpoint.h"
#include "pipeline/one_shot.h"
#include "pipeline/search_state.h"
#include "pipeline/stored_size.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace scalebits {
namespace {

std::array<std::uint64_t, 9> weights_by_width(const RoundedMatrices& matrices, const BitPlan& plan) {
  std::array<std::uint64_t, 9> weights{};
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (!matrices[m]) continue;
    const MatrixFormat& format = matrices[m]->format();
    for (std::int64_t row = 0; row < format.block_row_count(); ++row)
      for (std::int64_t col = 0; col < format.block_col_count(); ++col)
        weights[plan.widths[m][static_cast<std::size_t>(format.block_index(row, col))]] +=
            static_cast<std::uint64_t>(format.block_weights(row, col));
  }
  return weights;
}

}  // namespace

FrontierPlans plan_sizes(const PlanJob& job, const ProgressSink& progress) {
  if (progress) progress({0, "reading", job.model.string()});
  const SavedSearch saved = load_search_state(job.frontier);
  const Checkpoint checkpoint = read_checkpoint(job.model);
  Recipe recipe = recipe_from_json(saved.provenance.recipe, {}, job.frontier.string());
  if (std::ranges::none_of(job.allocators, reads_codes)) recipe.groups.code_widths = 0;
  require_same(saved.provenance, {checkpoint.hash, saved.provenance.calibration_hash, saved.provenance.recipe},
               job.frontier);
  FrontierPlans plans;
  RoundedMatrices matrices;
  const auto plan_one = [&](Allocator allocator) {
    const auto start = std::chrono::steady_clock::now();
    recipe.allocator = allocator;
    validate(recipe);
    StoredSize stored_size(checkpoint, recipe);
    const Budget budget{budget_bytes(checkpoint.spec, recipe), std::ref(stored_size)};
    SearchResult result =
        plan_from_frontier(checkpoint, {}, recipe, budget, saved.state, {.progress = progress}, std::move(matrices));
    matrices = std::move(result.matrices);
    if (plans.passed.empty())
      for (const FrontierPoint& point : saved.state.frontier)
        plans.passed.push_back({stored_size.sizes(saved.state.partition, matrices, point.plan), point.loss});
    plans.plans.push_back({.allocator = allocator,
                           .sizes = stored_size.sizes(result.state.partition, matrices, result.state.plan),
                           .cost = result.cost,
                           .least_cost = result.least_cost,
                           .weights = weights_by_width(matrices, result.state.plan),
                           .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()});
  };
  for (const Allocator allocator : job.allocators) {
    recipe.budget_bytes.reset();
    for (const double rate : job.rates) {
      recipe.bpw = rate;
      plan_one(allocator);
    }
    recipe.bpw.reset();
    for (const std::uint64_t bytes : job.budgets) {
      recipe.budget_bytes = bytes;
      plan_one(allocator);
    }
  }
  return plans;
}

Json to_json(const FrontierPlans& all) {
  Json passed = Json::array(), plans = Json::array();
  for (const PassedPoint& point : all.passed) passed.push_back({{"sizes", to_json(point.sizes)}, {"loss", point.loss}});
  for (const PlannedSize& plan : all.plans)
    plans.push_back({{"allocator", name_of(plan.allocator)},
                     {"sizes", to_json(plan.sizes)},
                     {"cost", plan.cost},
                     {"least_cost", plan.least_cost},
                     {"weights_of_width", plan.weights},
                     {"seconds", plan.seconds}});
  return {{"passed", passed}, {"plans", plans}};
}

}  // namespace scalebits
