// What the allocators that decide at once, without following a descent, read out of weights, activations and saved
// scores (allocate/allocators.h).
#pragma once

#include "allocate/allocators.h"
#include "rounding/rounded_matrix.h"
#include "sensitivity/sensitivity_table.h"

#include <vector>

namespace scalebits {

/// Whether it wants matrices with codes; formats and scores are enough for the others.
constexpr bool reads_codes(Allocator allocator) { return allocator == Allocator::baq; }

/// BAQ's c of each block, [matrix][block]: Σ over its groups of r²/12 · Σ_j H_jj, with r the range of the group's
/// weights and H_jj the mean square of input j (`importance`, per matrix in original order; empty: all 1). With
/// `scores` each matrix's c is also weighted by the mean squared gradient at its outputs, so that matrices compare: the
/// score of its rounding to `bits` over what H makes of the same rounding. Matrices that are not rounded are empty.
std::vector<std::vector<double>> baq_losses(const RoundedMatrices& matrices,
                                            const std::vector<std::vector<float>>& importance,
                                            const SensitivityTable* scores, int bits);

/// Score at width `bits` per weight of each block, [matrix][block].
std::vector<std::vector<double>> saliences(const RoundedMatrices& matrices, const SensitivityTable& scores, int bits);

}  // namespace scalebits
