// The multiple-choice knapsack that allocation is: of every block exactly one width is taken, bytes add up to no more
// than a target, costs add up to as little as possible. Its linear relaxation is solved exactly by walking down the
// slopes of the blocks' lower convex hulls (Sinha and Zoltners, 1979); the slopes are sorted only where it matters.
#pragma once

#include "allocate/allocation.h"

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace scalebits {

/// One block: width w, low <= w <= high, costs cost[w] and takes bytes[w]. Bytes do not fall with the width; costs may
/// do what they like, as long as they are finite.
struct BlockOptions {
  int low = 0, high = 8;
  std::array<double, 9> cost{};
  std::array<std::uint64_t, 9> bytes{};
};

/// Options are made when asked for, so that 10⁷ blocks take no memory beyond what they are made from.
struct Knapsack {
  std::vector<std::size_t> blocks;  // of each matrix
  std::function<void(std::size_t matrix, std::size_t block, BlockOptions& options)> options;
};

/// Throws Error(bad_input) naming the matrix and the block where bytes fall with the width, or a range of widths is not
/// within 0 to 8.
void check_bytes(const Choices& choices);

/// All widths of each matrix's range at the costs as they are. Refers to `choices`. Throws Error(bad_input) as
/// check_bytes does, and where costs are negative or not finite.
Knapsack knapsack_of(const Choices& choices);

/// The corners of the lower convex hull of a block's (bytes, cost), from the fewest bytes to the lowest cost.
struct Hull {
  int size = 0;
  std::array<std::uint8_t, 9> width;
  std::array<double, 9> gain;  // cost saved per byte from corner k − 1 to corner k > 0: positive, falling with k
};
Hull lower_hull(const BlockOptions& options);

/// What is left of the linear relaxation's solution when its one split block is rounded down.
struct Relaxation {
  BitPlan plan;             // every block on a corner of its hull
  std::uint64_t bytes = 0;  // above the target only where no plan fits; then `plan` is the narrowest
  double cost = 0;
  double price = 0;        // cost that one more byte would save; 0 where `plan` has the lowest cost there is
  double lower_bound = 0;  // no plan within the target costs less; infinite where none fits
};
/// O(blocks · widths) and the sorting of those steps whose gain lies within a sixteenth of an octave of the price.
Relaxation relax(const Knapsack& knapsack, std::uint64_t target_bytes);

/// Spends `left` bytes on raises of `plan`, best saving per byte first, until none that lowers the cost fits.
void spend_left_over(const Knapsack& knapsack, BitPlan& plan, std::uint64_t left);

double cost_of_plan(const Knapsack& knapsack, const BitPlan& plan);

/// Throws Error(infeasible_budget) when `narrowest_bytes`, the smallest plan's, exceed the target.
void check_feasible(std::uint64_t narrowest_bytes, std::uint64_t target_bytes);

}  // namespace scalebits
