// Plans of a search and their bytes: how many bits a plan has, what it takes when stored, and the cheapest plans of a
// size at the search's present scores. Looks at no text and runs no model.
#pragma once

#include "allocate/allocation.h"
#include "pipeline/search.h"
#include "pipeline/width_rules.h"

#include <cstdint>
#include <functional>
#include <string>

namespace scalebits {

class PlanBudget {
 public:
  /// Keeps references: state and matrices are looked at as they are at each call.
  PlanBudget(const Recipe& recipe, const Budget& budget, const SearchState& state, const RoundedMatrices& matrices)
      : recipe_(recipe), budget_(budget), state_(state), matrices_(matrices) {}

  std::uint64_t bytes() const { return budget_.bytes; }
  /// Throws Error(infeasible_budget) with the feasible range when no plan is small enough; Error(usage) when a descent
  /// would begin below the budget.
  void require_feasible() const;

  BitPlan uniform(int bits) const { return uniform_plan(matrices_, recipe_, bits); }
  std::uint64_t stored_bytes(const BitPlan& plan) const {
    return budget_.stored_bytes(state_.partition, matrices_, plan);
  }
  /// Mean width over the weights of all rounded matrices.
  double code_bits(const BitPlan& plan) const;

  /// The uniform width that a descent starts from: the smallest above the budget, 4 to 8, unless the recipe says.
  int start_bits() const;
  /// Of equal drops down to the budget, each small enough for one gradient.
  int descent_steps() const;

  /// What every block costs at each width, at the present scores seen from `plan`.
  Choices choices(const BitPlan& plan) const;
  /// What the blocks may take so that the whole meets `stored_target`: tags, padding and tables change little with a
  /// plan.
  std::uint64_t block_bytes_for(const Choices& choices, const BitPlan& plan, std::uint64_t stored_target) const;
  /// From the present plan.
  BitPlan allocate_within(std::uint64_t stored_target, const MoveLimits& limits) const;
  /// plan_for(bytes of the blocks) until the exact stored size fits: the part of it that does not add up block by block
  /// is small.
  BitPlan within_budget(const Choices& all, std::uint64_t stored_target,
                        const std::function<BitPlan(std::uint64_t)>& plan_for) const;

  /// The nearest plan above the budget that an earlier descent passed; Error(infeasible_budget) where it began below.
  const FrontierPoint& nearest_above() const;

 private:
  /// In the recipe's terms: "3.142 bpw", or bytes; rounded towards what is feasible.
  std::string described(std::uint64_t stored, bool at_least) const;

  const Recipe& recipe_;
  const Budget& budget_;
  const SearchState& state_;
  const RoundedMatrices& matrices_;
};

}  // namespace scalebits
