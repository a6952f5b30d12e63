// The allocators that a search is measured against: one width for all, two neighbouring widths split by salience, one
// width per matrix. All throw Error(infeasible_budget) where no plan fits, and never pass the target.
#pragma once

#include "allocate/allocation.h"
#include "allocate/optimum.h"

#include <cstdint>
#include <vector>

namespace scalebits {

/// Bytes of each matrix with all blocks at `width`, or at the end of the matrix's range next to it.
std::vector<std::uint64_t> bytes_at_width(const Choices& choices, int width);
/// 0 to 8: the largest width whose uniform plan fits.
int widest_uniform_width(const Choices& choices, std::uint64_t target_bytes);

/// The plan of the widest uniform width.
BitPlan allocate_uniform(const Choices& choices, std::uint64_t target_bytes);

/// SFMP's form (arXiv 2602.01027): the widest uniform width b, and b + 1 for the blocks with the highest salience, as
/// many as fit; the first of them in the plan's order where salience is equal. `salience`: [matrix][block]; only its
/// order counts. Throws Error(bad_input) naming the block where a salience is negative or not finite.
BitPlan allocate_fisher_quantile(const Choices& choices, const std::vector<std::vector<double>>& salience,
                                 std::uint64_t target_bytes);

/// The cheapest plan in which each matrix has one width; bound and cost are of such plans (optimum.h).
OptimalityBound allocate_per_tensor(const Choices& choices, std::uint64_t target_bytes);

}  // namespace scalebits
