// Eight floats at a time, in GCC's portable vector extension: the same operations in the same order whatever the
// instruction set, so that results do not depend on the machine. Functions that use them carry SCALEBITS_CLONES, which
// compiles them for AVX-512, AVX2 and the base set and picks at load time.
#pragma once

#include "core/inline.h"

#include <cstdint>
#include <cstring>

// Eight, not sixteen: where a vector is wider than the machine's, GCC 12 compares and selects element by element and
// keeps it in memory (a clip search took 3.7 times as long on AVX2). GCC takes arch=skylake-avx512 for that very
// processor, so the levels are named, not the makes. Contraction to fused multiply-add would make the clones differ:
// who uses this is compiled with -ffp-contract=off.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define SCALEBITS_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SCALEBITS_CLONES
#endif

namespace scalebits {

inline constexpr int kLanes = 8;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

// Vectors are passed by reference: returned by value they would change the calling convention with the instruction set.
SCALEBITS_INLINE void load_lanes(Lanes& lanes, const float* values) { std::memcpy(&lanes, values, sizeof lanes); }

SCALEBITS_INLINE void store_lanes(float* out, const Lanes& lanes) { std::memcpy(out, &lanes, sizeof lanes); }

// How many lanes a step of a loop handles: all, known to the compiler, or what is left of a row. They are types because
// a loop in which a rest were possible would keep no constant in a register.
struct AllLanes {};
struct SomeLanes {
  std::int64_t count;
};

/// step(i, AllLanes) for each whole vector of a row, then step(i, SomeLanes) for the rest. The step is a lambda marked
/// SCALEBITS_STEP, or it would not be compiled for the clone's instruction set.
template <typename Step>
SCALEBITS_INLINE void for_lanes(std::int64_t width, const Step& step) {
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) step(i, AllLanes{});
  if (i < width) step(i, SomeLanes{width - i});
}

// Lanes that are not there are read as zero and not written.
SCALEBITS_INLINE void load_lanes(Lanes& lanes, const float* values, AllLanes) { load_lanes(lanes, values); }
SCALEBITS_INLINE void load_lanes(Lanes& lanes, const float* values, SomeLanes some) {
  lanes = Lanes{};
  for (std::int64_t i = 0; i < some.count; ++i) lanes[i] = values[i];
}
SCALEBITS_INLINE void store_lanes(float* out, const Lanes& lanes, AllLanes) { store_lanes(out, lanes); }
SCALEBITS_INLINE void store_lanes(float* out, const Lanes& lanes, SomeLanes some) {
  for (std::int64_t i = 0; i < some.count; ++i) out[i] = lanes[i];
}
/// Sets the lanes that are not there to zero.
SCALEBITS_INLINE void keep_lanes(Lanes&, AllLanes) {}
SCALEBITS_INLINE void keep_lanes(Lanes& lanes, SomeLanes some) {
  for (std::int64_t i = some.count; i < kLanes; ++i) lanes[i] = 0;
}

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

/// x := e^x within 3 units in the last place for -87 <= x <= 88, clamped outside; never subnormal. NaN stays NaN.
SCALEBITS_INLINE void exp_lanes(Lanes& x) {
  clamp_lanes(x, -87.0f, 88.0f);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Lanes shifted = x * 1.44269504f + kRound;
  const Lanes power = shifted - kRound;
  const Lanes r = x - power * 0.693359375f + power * 2.12194440e-4f;  // ln 2 in two parts
  Lanes poly = Lanes{} + 1.9875691500e-4f;
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  const Lanes mantissa = poly * r * r + r + 1.0f;
  typedef std::int32_t Ints __attribute__((vector_size(kLanes * 4)));
  Ints exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent - 0x4b400000 + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &exponent, sizeof scale);
  x = mantissa * scale;
}

/// A sum of many: lanes of f32, emptied into f64 before they grow inexact.
class LongLanes {
 public:
  /// Emptied every so many.
  static constexpr int kVectors = 64;

  SCALEBITS_INLINE void add(const Lanes& values) {
    lanes_ += values;
    if (++pending_ == kVectors) flush();
  }
  SCALEBITS_INLINE double total() {
    flush();
    return total_;
  }

 private:
  SCALEBITS_INLINE void flush() {
    for (int i = 0; i < kLanes; ++i) total_ += static_cast<double>(lanes_[i]);
    lanes_ = Lanes{};
    pending_ = 0;
  }
  Lanes lanes_ = {};
  double total_ = 0;
  int pending_ = 0;
};

/// Sum over the lanes in a fixed tree.
SCALEBITS_INLINE float sum_lanes(const Lanes& x) {
  static_assert(kLanes == 8);
  const auto half = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
  const auto quarter = half + __builtin_shufflevector(half, half, 2, 3, 0, 1);
  return quarter[0] + quarter[1];
}

}  // namespace scalebits
