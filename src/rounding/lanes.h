// Sixteen floats at a time, in GCC's portable vector extension: the same operations in the same order whatever the
// instruction set, so that results do not depend on the machine. Functions that use them carry SCALEBITS_CLONES, which
// compiles them for AVX-512, AVX2 and the base set and picks at load time.
#pragma once

#include <cstdint>
#include <cstring>

// GCC takes arch=skylake-avx512 for that very processor, so the levels are named, not the makes.
// Contraction to fused multiply-add would make the clones differ; src/rounding is compiled with -ffp-contract=off.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define SCALEBITS_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SCALEBITS_CLONES
#endif
#define SCALEBITS_INLINE inline __attribute__((always_inline))

namespace scalebits {

inline constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

// Vectors are passed by reference: returned by value they would change the calling convention with the instruction set.
SCALEBITS_INLINE void load_lanes(Lanes& lanes, const float* values) { std::memcpy(&lanes, values, sizeof lanes); }

SCALEBITS_INLINE void store_lanes(float* out, const Lanes& lanes) { std::memcpy(out, &lanes, sizeof lanes); }

/// Rounds each lane to the nearest integer, ties to even; for |x| < 2^22.
SCALEBITS_INLINE void round_lanes(Lanes& x) {
  constexpr float kMagic = 0x1.8p23f;
  x = (x + kMagic) - kMagic;
}

SCALEBITS_INLINE void clamp_lanes(Lanes& x, float low, float high) {
  const Lanes lows = Lanes{} + low, highs = Lanes{} + high;
  x = x < lows ? lows : x;
  x = x > highs ? highs : x;
}

SCALEBITS_INLINE void abs_lanes(Lanes& x) { x = x < Lanes{} ? -x : x; }

/// Sum over the lanes in a fixed tree.
SCALEBITS_INLINE float sum_lanes(const Lanes& x) {
  float part[kLanes];
  std::memcpy(part, &x, sizeof x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

}  // namespace scalebits
