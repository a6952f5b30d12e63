#include "rounding/group_codes.h"

#include "core/error.h"
#include "core/lanes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace scalebits {
namespace {

struct Group {
  const float* weights;
  const float* importance;
  std::size_t count;
  float importance_sum;
};

struct RoundingError {
  float squared = 0;  // Σ h (w − value)²
  float shift = 0;    // Σ h (w − value) / Σ h: how far the grid should move
};

SCALEBITS_INLINE RoundingError rounding_error(const SideTable& side, int bits, GroupCode code, const Group& group) {
  const float scale = side.scale(code.scale, bits), zero = side.zero(code.zero, bits);
  const float top_code = static_cast<float>((1 << bits) - 1);
  const float inverse = 1.0f / scale;
  Lanes squared{}, shift{};
  for (std::size_t i = 0; i < group.count; i += kLanes) {
    Lanes w, h;
    load_lanes(w, group.weights + i);
    load_lanes(h, group.importance + i);
    Lanes level = w * inverse + zero;
    clamp_lanes(level, 0.0f, top_code);
    round_lanes(level);
    const Lanes error = w - (level - zero) * scale;
    const Lanes weighted = h * error;
    squared += weighted * error;
    shift += weighted;
  }
  return {sum_lanes(squared), group.importance_sum > 0 ? sum_lanes(shift) / group.importance_sum : 0.0f};
}

SCALEBITS_INLINE std::uint8_t clamp_code(float code, int bits) {
  const float top = static_cast<float>((1 << bits) - 1);
  return static_cast<std::uint8_t>(code < 0.0f ? 0.0f : code > top ? top : code);
}

/// The zero code that puts the grid's centre nearest to `centre`, for a given step between levels.
SCALEBITS_INLINE std::uint8_t zero_code_for(const SideTable& side, int bits, float scale, float centre) {
  if (side.format.zero_bits == 0) return 0;
  const float middle = static_cast<float>(1 << (side.format.zero_bits - 1));
  const float unit = side.format.zero_range * static_cast<float>(1 << bits) / middle;
  return clamp_code(std::nearbyintf(middle - centre / (scale * unit)), side.format.zero_bits);
}

/// Moves `best` to the best of its neighbours until none is better. Along the zero the error has many small valleys,
/// less than a level apart: a level either way is looked at, three codes at most. Steps of two scales find nothing
/// more.
SCALEBITS_INLINE void descend(const SideTable& side, int bits, const Group& group, GroupChoice& best) {
  const int last_scale = (1 << side.format.scale_bits) - 1, last_zero = (1 << side.format.zero_bits) - 1;
  const float level = static_cast<float>(last_zero + 1) / (2 * side.format.zero_range * static_cast<float>(1 << bits));
  const int near = level >= 3 ? 3 : level >= 1 ? static_cast<int>(level) : 1;
  GroupCode before = best.code, at = best.code;
  const auto is_beside = [&](int scale, int zero, GroupCode code) {
    return std::abs(scale - code.scale) <= 1 && std::abs(zero - code.zero) <= near;
  };
  bool first = true;
  for (float reached = INFINITY; best.error < reached; first = false) {
    reached = best.error;
    before = std::exchange(at, best.code);
    for (int scale = std::max(at.scale - 1, 0); scale <= std::min(at.scale + 1, last_scale); ++scale)
      for (int zero = std::max(at.zero - near, 0); zero <= std::min(at.zero + near, last_zero); ++zero) {
        if (!first && is_beside(scale, zero, before)) continue;
        const GroupCode code{static_cast<std::uint8_t>(scale), static_cast<std::uint8_t>(zero)};
        if (const float error = rounding_error(side, bits, code, group).squared; error < best.error)
          best = {code, error};
      }
  }
}

SCALEBITS_CLONES
void choose(const SideTable& side, int bits, const float* weights, const float* importance, std::size_t count,
            bool clip_search, GroupChoice& best) {
  Group group{weights, importance, count, 0};
  float low = weights[0], high = weights[0];
  for (std::size_t i = 0; i < count; ++i) {
    low = std::min(low, weights[i]);
    high = std::max(high, weights[i]);
    group.importance_sum += importance[i];
  }
  const float range = covering_range(low, high, side.format.zero_bits, side.format.zero_range);
  const float middle = 0.5f * (high + low);
  const float top_code = static_cast<float>((1 << bits) - 1);
  const float codes_per_octave = 1.0f / side.format.scale_step_log2;
  const float widest = std::ceil(std::log2(std::max(range, 1e-30f) / side.format.scale_base) * codes_per_octave);
  const float clip = clip_search ? std::log2(kSmallestClip[bits]) * codes_per_octave : 0.0f;
  const float narrowest = std::floor(widest + clip);
  const std::uint8_t last = clamp_code(widest, side.format.scale_bits),
                     first = clamp_code(narrowest, side.format.scale_bits);
  best.error = INFINITY;
  for (int scale_code = last; scale_code >= first; --scale_code) {
    const float scale = side.scale(scale_code, bits);
    // Start from the middle of the range; then move the grid by the mean error it leaves, twice at most.
    GroupCode code{static_cast<std::uint8_t>(scale_code), zero_code_for(side, bits, scale, middle)};
    for (int round = 0; round < 3; ++round) {
      const RoundingError error = rounding_error(side, bits, code, group);
      if (error.squared < best.error) best = {code, error.squared};
      const float centre = (0.5f * top_code - side.zero(code.zero, bits)) * scale + error.shift;
      const std::uint8_t moved = zero_code_for(side, bits, scale, centre);
      if (moved == code.zero) break;
      code.zero = moved;
    }
  }
  if (clip_search) descend(side, bits, group, best);
}

}  // namespace

GroupChoice choose_group_code(const SideTable& side, int bits, std::span<const float> weights,
                              std::span<const float> importance, bool clip_search) {
  SCALEBITS_ASSERT(bits >= 1 && bits <= 8 && !weights.empty() && weights.size() % kLanes == 0 &&
                   importance.size() == weights.size());
  GroupChoice best;
  choose(side, bits, weights.data(), importance.data(), weights.size(), clip_search, best);
  return best;
}

void pad_group(std::span<float> weights, std::span<float> importance, std::int64_t valid) {
  const auto begin = weights.begin(), end = begin + valid;
  const float mean = std::accumulate(begin, end, 0.0f) / static_cast<float>(valid);
  std::fill(end, weights.end(), mean);
  std::fill(importance.begin() + valid, importance.end(), 0.0f);
}

}  // namespace scalebits
