// How good can a plan be, when costs add up over blocks? A lower bound that no plan can pass, and the best plan itself:
// what the other allocators are measured against.
#pragma once

#include "allocate/knapsack.h"

namespace scalebits {

struct OptimalityBound {
  double lower_bound = 0;  // of the costs of all plans within the target
  BitPlan plan;
  double plan_cost = 0;
};

/// The linear relaxation solved exactly; `plan` is its solution with the one block rounded down that it would split
/// between two widths, so it costs at most that block's step more than the bound. Throws Error(bad_input) for
/// choices that make no sense, Error(infeasible_budget) where no plan fits.
OptimalityBound optimality_bound(const Choices& choices, std::uint64_t target_bytes);

/// The cheapest plan within the target. Blocks whose every other width is too dear at the relaxation's price to be part
/// of a better plan stay (reduced-cost fixing); dynamic programming over (bytes, cost) decides the rest, the least
/// certain first. `lower_bound` is `plan_cost` where the plan is proven optimal, and below it where the states that
/// `frontier_limit` leaves room for ran out. Throws Error(infeasible_budget) where no plan fits.
OptimalityBound solve_exactly(const Knapsack& knapsack, std::uint64_t target_bytes, std::size_t frontier_limit = 4096);

}  // namespace scalebits
