// What lets one piece of code run on the card and, in tests, on the CPU. Everything that decides where a bit lies is
// marked SCALEBITS_HD and includes nothing but the standard library, so that tools/gpu_check builds it anywhere.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SCALEBITS_HD __host__ __device__
#else
#define SCALEBITS_HD
#endif
#if defined(__CUDA_ARCH__)
#define SCALEBITS_ON_CARD 1
#define SCALEBITS_UNROLL _Pragma("unroll")
#define SCALEBITS_KEEP_LOOP _Pragma("unroll 1")
#define SCALEBITS_UNROLL_BY(n) _Pragma(SCALEBITS_TEXT(unroll n))
#define SCALEBITS_TEXT(words) #words
#else
#define SCALEBITS_ON_CARD 0
#define SCALEBITS_UNROLL
#define SCALEBITS_KEEP_LOOP
#define SCALEBITS_UNROLL_BY(n)
#include "core/float_types.h"

#include <cmath>
#endif

namespace scalebits::cuda {

inline constexpr int kLanes = 32;

/// Two f16 in one register, the first in the low half; their sums, each rounded to f16.
SCALEBITS_HD inline std::uint32_t add_halves(std::uint32_t a, std::uint32_t b) {
#if SCALEBITS_ON_CARD
  std::uint32_t sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
  return sum;
#else
  const auto half_sum = [](std::uint32_t x, std::uint32_t y) {
    return std::uint32_t{f32_to_f16(f16_to_f32(std::uint16_t(x)) + f16_to_f32(std::uint16_t(y)))};
  };
  return half_sum(a & 0xffff, b & 0xffff) | half_sum(a >> 16, b >> 16) << 16;
#endif
}

/// a · b + c of both, each rounded to f16 (on the CPU to f32 before that).
SCALEBITS_HD inline std::uint32_t multiply_add_halves(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if SCALEBITS_ON_CARD
  std::uint32_t sum;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
#else
  const auto of = [](std::uint32_t word, int shift) { return f16_to_f32(static_cast<std::uint16_t>(word >> shift)); };
  const auto one = [&](int shift) {
    return std::uint32_t{f32_to_f16(std::fma(of(a, shift), of(b, shift), of(c, shift)))} << shift;
  };
  return one(0) | one(16);
#endif
}

/// The value, rounded to f16, twice.
SCALEBITS_HD inline std::uint32_t twice_half(float value) {
#if SCALEBITS_ON_CARD
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %1;" : "=r"(pair) : "f"(value));
  return pair;
#else
  return f32_to_f16(value) * 0x00010001u;
#endif
}

/// The word turned right by 0 to 31 bits.
SCALEBITS_HD inline std::uint32_t rotate_right(std::uint32_t word, int bits) {
#if SCALEBITS_ON_CARD
  return __funnelshift_r(word, word, bits);
#else
  return word >> bits | word << (-bits & 31);
#endif
}

}  // namespace scalebits::cuda
