#include "core/largest.h"

#include "core/lanes.h"

#include <algorithm>

namespace scalebits {
namespace {

/// Values after which the largest is looked at, so that its place is known nearly.
constexpr std::int64_t kChunk = 64 * kLanes;

}  // namespace

SCALEBITS_CLONES
Largest largest_of(const float* values, std::int64_t count) {
  Largest found{.value = values[0]};
  std::int64_t chunk = 0;  // where it lies
  Lanes zeros = {};        // sums of zeros, or NaN
  Lanes more_zeros = {};
  for (std::int64_t begin = 0; begin < count; begin += kChunk) {
    const std::int64_t end = std::min(begin + kChunk, count);
    Lanes best = Lanes{} + values[begin];
    Lanes other_best = best;
    std::int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {  // two chains of operations, as each waits for the one before
      Lanes some, others;
      load_lanes(some, values + i);
      load_lanes(others, values + i + kLanes);
      best = some > best ? some : best;
      other_best = others > other_best ? others : other_best;
      zeros += some * 0.0f;
      more_zeros += others * 0.0f;
    }
    best = other_best > best ? other_best : best;
    float largest = values[begin];
    for (int lane = 0; lane < kLanes; ++lane) largest = best[lane] > largest ? best[lane] : largest;
    for (; i < end; ++i) {
      largest = values[i] > largest ? values[i] : largest;
      zeros[0] += values[i] * 0.0f;
    }
    if (largest > found.value) {
      found.value = largest;
      chunk = begin;
    }
  }
  zeros += more_zeros;
  found.finite = sum_lanes(zeros) == 0;
  const float* const at = std::find(values + chunk, values + std::min(chunk + kChunk, count), found.value);
  found.index = at - values;
  return found;
}

}  // namespace scalebits
