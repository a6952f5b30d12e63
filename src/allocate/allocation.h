// Moving bits between blocks when the loss that each width of each block accounts for is known. Pure functions: no
// model, no files. Costs are only good near the plan they were taken at, so moves stay within a step of it.
#pragma once

#include "format/matrix_format.h"
#include "rounding/bit_plan.h"
#include "sensitivity/sensitivity_table.h"

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace scalebits {

/// How the loss that a block accounts for is taken to depend on its width b, given scores S at the current width b0.
enum class CostModel {
  linear,    // S(b): the gradient stays as it is
  quadratic  // S(b)² / S(b0): the gradient grows with the block's own error
};
std::string_view name_of(CostModel model);
/// Throws Error(usage) listing the known names.
CostModel cost_model_from_name(std::string_view name);

/// What may be decided for one matrix: blocks x widths 0..8.
struct MatrixChoices {
  std::vector<WidthScores> cost;                    // loss accounted for, one per block
  std::vector<std::array<std::uint32_t, 9>> bytes;  // stored, one per block
  int min_width = 1, max_width = 8;
};

/// One entry per matrix of the plan; without blocks where a matrix is not quantised.
using Choices = std::vector<MatrixChoices>;

/// Bytes per width of every block of `format`: codes and side information.
std::vector<std::array<std::uint32_t, 9>> bytes_of_blocks(const MatrixFormat& format);
/// Σ of the chosen blocks' bytes: what the budget is held against, without tags, padding and tables.
std::uint64_t bytes_of_plan(const Choices& choices, const BitPlan& plan);

/// Scores to costs at `plan`. Throws Error(bad_input) for scores that are negative or not finite.
std::vector<WidthScores> costs_of(const std::vector<WidthScores>& scores, const std::vector<std::uint8_t>& widths,
                                  CostModel model);

struct MoveLimits {
  int lower_by = 1;               // widths a block may lose in one call
  int raise_by = 1;               // widths it may gain
  double raise_trust = 1.0;       // a predicted gain counts this much: raising gains less than first order says
  const BitPlan* held = nullptr;  // swap_bits leaves blocks with a 1 here as they are
};

/// The plan within `limits` of `plan` that minimises Σ cost under Σ bytes <= target_bytes, but for the rounding of one
/// block: all steps that save more per byte than one price are taken (knapsack.h), then bytes left over go to the
/// raises that save most per byte, until none fits. Where the limits do not reach the target, every block is lowered as
/// far as they allow.
BitPlan allocate(const Choices& choices, const BitPlan& plan, std::uint64_t target_bytes, const MoveLimits& limits);

/// Raises the `count` blocks with the best gain per byte and pays for them with the cheapest lowerings, as long as a
/// raise is predicted to gain more than its payment costs; but at least one, whatever is predicted, since the caller
/// measures what comes of it. Never more bytes than `target_bytes`.
BitPlan swap_bits(const Choices& choices, const BitPlan& plan, std::uint64_t target_bytes, std::int64_t count,
                  const MoveLimits& limits);

}  // namespace scalebits
