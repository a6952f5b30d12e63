// From a gradient to scores: one sweep over a matrix gives the sums over each block at every width, or over each
// channel at one width. Sums run in a fixed order, so they do not depend on the number of threads.
#pragma once

#include "partition/partition.h"
#include "rounding/rounded_matrix.h"
#include "sensitivity/sensitivity_table.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

/// `gradient`: [rows, cols] f32 in original order. Returns one entry per block.
std::vector<WidthScores> score_blocks(const RoundedMatrix& matrix, const float* gradient, Statistic statistic);

/// Sums over rows and columns, in ORIGINAL order, at width `bits` throughout.
ChannelScores score_channels(const RoundedMatrix& matrix, const float* gradient, Statistic statistic, int bits);

}  // namespace scalebits
