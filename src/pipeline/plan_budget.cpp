#include "pipeline/plan_budget.h"

#include "core/units.h"

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

/// Smallest drop of the mean width for which one gradient serves; a larger gap to the budget takes more steps.
constexpr double kLargestDropBits = 0.45;

/// visit(weights, width) of each block of the rounded matrices.
template <typename Visit>
void for_each_block(const RoundedMatrices& matrices, const BitPlan& plan, Visit&& visit) {
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (!matrices[m]) continue;
    const MatrixFormat& format = matrices[m]->format();
    for (std::int64_t row = 0; row < format.block_row_count(); ++row)
      for (std::int64_t col = 0; col < format.block_col_count(); ++col)
        visit(static_cast<double>(format.block_weights(row, col)),
              plan.widths[m][static_cast<std::size_t>(format.block_index(row, col))]);
  }
}

}  // namespace

void PlanBudget::require_feasible() const {
  const std::uint64_t smallest = stored_bytes(uniform(0)), largest = stored_bytes(uniform(8));
  if (bytes() < smallest)
    fail(ErrorKind::infeasible_budget, "the budget of {} cannot be met: feasible are {} to {} under this recipe",
         recipe_.bpw ? fmt::format("{:g} bpw", *recipe_.bpw) : fmt::format("{} bytes", bytes()),
         described(smallest, true), described(largest, false));
  if (recipe_.allocator != Allocator::scalebits || recipe_.start_bits == 0) return;
  const std::uint64_t start = stored_bytes(uniform(recipe_.start_bits));
  if (start < std::min(bytes(), largest))
    fail(ErrorKind::usage, "start_bits={} is {}, below the budget: there is nothing to descend from; leave it at 0",
         recipe_.start_bits, described(start, false));
}

std::string PlanBudget::described(std::uint64_t stored, bool at_least) const {
  if (!recipe_.bpw) return fmt::format("{} bytes ({})", stored, format_bytes(stored));
  const double thousandths = 1000 * *recipe_.bpw * static_cast<double>(stored) / static_cast<double>(bytes());
  return fmt::format("{:.3f} bpw", (at_least ? std::ceil(thousandths) : std::floor(thousandths)) / 1000);
}

double PlanBudget::code_bits(const BitPlan& plan) const {
  double bits = 0, weights = 0;
  for_each_block(matrices_, plan, [&](double count, int width) { bits += count * width, weights += count; });
  return weights > 0 ? bits / weights : 0;
}

int PlanBudget::start_bits() const {
  if (recipe_.start_bits > 0) return recipe_.start_bits;
  for (int bits = 4; bits < 8; ++bits)
    if (stored_bytes(uniform(bits)) > bytes()) return bits;
  return 8;
}

int PlanBudget::descent_steps() const {
  const BitPlan start = uniform(start_bits());
  const double gap_bytes = static_cast<double>(stored_bytes(start)) - static_cast<double>(bytes());
  double weights = 0;
  for_each_block(matrices_, start, [&](double count, int) { weights += count; });
  return std::max(recipe_.descent_steps, static_cast<int>(std::ceil(8.0 * gap_bytes / weights / kLargestDropBits)));
}

Choices PlanBudget::choices(const BitPlan& plan) const {
  Choices result;
  for (std::size_t m = 0; m < matrices_.size(); ++m) {
    MatrixChoices matrix;
    if (matrices_[m]) {
      const WidthRange range = width_range(recipe_, matrices_[m]->name());
      matrix = {costs_of(state_.scores.scores[m], plan.widths[m], recipe_.cost_model),
                bytes_of_blocks(matrices_[m]->format()), range.min, range.max};
    }
    result.push_back(std::move(matrix));
  }
  return result;
}

std::uint64_t PlanBudget::block_bytes_for(const Choices& choices, const BitPlan& plan,
                                          std::uint64_t stored_target) const {
  const auto overhead = static_cast<std::int64_t>(stored_bytes(plan)) -
                        static_cast<std::int64_t>(bytes_of_plan(choices, plan));  // negative when some are not counted
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, static_cast<std::int64_t>(stored_target) - overhead));
}

BitPlan PlanBudget::allocate_within(std::uint64_t stored_target, const MoveLimits& limits) const {
  const Choices all = choices(state_.plan);
  return within_budget(all, stored_target,
                       [&](std::uint64_t target) { return allocate(all, state_.plan, target, limits); });
}

BitPlan PlanBudget::within_budget(const Choices& all, std::uint64_t stored_target,
                                  const std::function<BitPlan(std::uint64_t)>& plan_for) const {
  // What lies beside the blocks differs between plans; the narrowest is one that all allocators know how to reach.
  const BitPlan narrowest = uniform(0);
  const std::uint64_t least = stored_bytes(narrowest) <= stored_target ? bytes_of_plan(all, narrowest) : 0;
  std::uint64_t target = std::max(least, block_bytes_for(all, state_.plan, stored_target));
  BitPlan plan = plan_for(target);
  for (int attempt = 0; attempt < 8 && stored_target == bytes(); ++attempt) {
    const std::uint64_t stored = stored_bytes(plan);
    if (stored <= stored_target || bytes_of_plan(all, plan) > target) break;
    target = std::max(least, target - std::min(target, stored - stored_target));
    plan = plan_for(target);
  }
  return plan;
}

const FrontierPoint& PlanBudget::nearest_above() const {
  const FrontierPoint* nearest = nullptr;
  for (const FrontierPoint& point : state_.frontier)
    if (const std::uint64_t stored = stored_bytes(point.plan);
        stored > bytes() && (nearest == nullptr || stored < stored_bytes(nearest->plan)))
      nearest = &point;
  if (nearest == nullptr)
    fail(ErrorKind::infeasible_budget, "the frontier starts at {}, below the budget; make one with more start_bits",
         described(state_.frontier.empty() ? 0 : stored_bytes(state_.frontier.front().plan), false));
  return *nearest;
}

}  // namespace scalebits
