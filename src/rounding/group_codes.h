// Scale and zero codes of one group of weights at one width: nearest rounding, with a search over clipped ranges.
#pragma once

#include "format/side_table.h"

#include <algorithm>
#include <cstdint>
#include <span>

namespace scalebits {

/// Smallest part of a group's full range that the clip search tries, per width: about half of what minimises the
/// squared error of Gaussian weights (0.996 sigma a step at 2 bits, 0.586 at 3, 0.335 at 4).
inline constexpr float kSmallestClip[9] = {0, 0.15f, 0.35f, 0.45f, 0.55f, 0.65f, 0.75f, 0.85f, 0.9f};

/// The range that covers [low, high] though the grid's centre moves off zero by at most zero_range of it: wider than
/// high − low only for groups that lie far to one side.
inline float covering_range(float low, float high, int zero_bits, float zero_range) {
  const float reach = 0.5f + (zero_bits > 0 ? zero_range : 0.0f);
  return std::max(high - low, std::max(-low, high) / reach);
}

/// Chooses codes of small Σ importance·(w − value)²: the best over ranges between kSmallestClip and the whole range of
/// the group, each with the zero that the mean error points to, and then neighbours of the best while one is better;
/// 1 to 2 % above the least error of all codes. `weights` and `importance` hold the group (a multiple of 8 values,
/// short groups padded with weight = the group's mean and importance 0). bits in 1..8. Without `clip_search` only the
/// whole range is tried. Returns the codes and the error they leave.
struct GroupChoice {
  GroupCode code;
  float error = 0;
};
GroupChoice choose_group_code(const SideTable& side, int bits, std::span<const float> weights,
                              std::span<const float> importance, bool clip_search = true);

/// Pads a short last group with the mean of its `valid` values and no importance, so that the padding neither widens
/// the range nor counts.
void pad_group(std::span<float> weights, std::span<float> importance, std::int64_t valid);

}  // namespace scalebits
