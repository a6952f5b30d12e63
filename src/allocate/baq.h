// Allocation after BAQ (arXiv 2506.05664), on blocks: a block of n weights at R bits loses c · 4^-R, where c sums
// r²/12 · H_jj over its weights, r being the range of a weight's group. Closed form for real-valued widths, and integer
// widths for a budget of stored bytes.
#pragma once

#include "allocate/allocation.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

/// Real-valued widths R, one per block, that minimise Σ c_t 4^-R_t under Σ n_t R_t = mean_bits Σ n_t and
/// min_bits <= R_t <= max_bits. Where no limit holds, R_t = mean_bits + ½ log2((c_t/n_t) / GM), GM the geometric mean
/// of c/n weighted by n: all weights lose the same. Blocks with c = 0 stay at min_bits unless all others have max_bits;
/// what is left then, they share. Throws Error(bad_input) naming the block where c is negative or not finite or n is
/// not positive, Error(infeasible_budget) where mean_bits is not within min_bits to max_bits.
std::vector<double> water_fill(std::span<const double> c, std::span<const std::int64_t> weights, double mean_bits,
                               double min_bits, double max_bits);

/// What the unlimited water-filling loses over what one width for all loses, at any mean: the geometric over the
/// arithmetic mean of c/n, weighted by n. Within 0 to 1; 0 where some c is 0, 1 where all c/n are alike or all 0.
double water_filling_gain(std::span<const double> c, std::span<const std::int64_t> weights);

enum class BaqScope {
  model,  // one price for all blocks
  layer   // every matrix gets the same mean width, as in the paper; only bytes too few for a step inside a matrix move
};

/// The plan that minimises Σ c 4^-b over integer widths, but for the rounding of one block (with BaqScope::layer, one
/// in each matrix): what water-filling gives, with a block's width rounded by the loss that each stored byte saves.
/// Takes bytes and ranges of widths from `choices`, no costs. `c`: [matrix][block]. Never more bytes than
/// `target_bytes`. Throws Error(bad_input) naming matrix and block where c is negative or not finite,
/// Error(infeasible_budget).
BitPlan allocate_baq(const Choices& choices, const std::vector<std::vector<double>>& c, std::uint64_t target_bytes,
                     BaqScope scope);

}  // namespace scalebits
