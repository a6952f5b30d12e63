// Elements of either operand type as f32 lanes (core/lanes.h), and back. To be used like those, inside
// functions that carry SCALEBITS_CLONES.
#pragma once

#include "core/lanes.h"
#include "graph/row_kernels.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace scalebits {

typedef std::uint32_t Words __attribute__((vector_size(kLanes * 4), aligned(4)));
typedef std::uint16_t Halves __attribute__((vector_size(kLanes * 2), aligned(2)));

// Elements as lanes; those that are not there are read as zero.
SCALEBITS_INLINE void load_elements(Lanes& lanes, const float* values, std::int64_t count) {
  if (count >= kLanes) return load_lanes(lanes, values);
  load_lanes(lanes, values, SomeLanes{count});
}
SCALEBITS_INLINE void load_elements(Lanes& lanes, const Bf16* values, std::int64_t count) {
  Halves halves{};
  std::memcpy(&halves, values, static_cast<std::size_t>(std::min<std::int64_t>(count, kLanes)) * 2);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(&lanes, &words, sizeof lanes);
}
SCALEBITS_INLINE void load_whole(Lanes& lanes, const float* values) { load_lanes(lanes, values); }
SCALEBITS_INLINE void load_whole(Lanes& lanes, const Bf16* values) {
  Halves halves;
  std::memcpy(&halves, values, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(&lanes, &words, sizeof lanes);
}
SCALEBITS_INLINE void to_halves(Halves& halves, const Lanes& lanes) {
  Words words;
  std::memcpy(&words, &lanes, sizeof words);
  // Nearest even; a NaN here is the quiet one of the arithmetic before it, which rounding up cannot overflow away.
  words = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
  halves = __builtin_convertvector(words, Halves);
}
SCALEBITS_INLINE void store_elements(float* out, const Lanes& lanes, std::int64_t count) {
  if (count >= kLanes) return store_lanes(out, lanes);
  store_lanes(out, lanes, SomeLanes{count});
}
SCALEBITS_INLINE void store_elements(Bf16* out, const Lanes& lanes, std::int64_t count) {
  Halves halves;
  to_halves(halves, lanes);
  std::memcpy(out, &halves, static_cast<std::size_t>(std::min<std::int64_t>(count, kLanes)) * 2);
}

}  // namespace scalebits
