// 16-bit floats for code that runs on the card and on the CPU; conversions round to nearest even on both.
#pragma once

#include "kernels/cuda/product_args.h"

namespace scalebits::cuda {

SCALEBITS_HD inline float half_to_float(std::uint16_t bits) {
#if SCALEBITS_ON_CARD
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return f16_to_f32(bits);
#endif
}

SCALEBITS_HD inline std::uint16_t float_to_half(float value) {
#if SCALEBITS_ON_CARD
  std::uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  return f32_to_f16(value);
#endif
}

SCALEBITS_HD inline float float_of(std::uint32_t bits) {
#if SCALEBITS_ON_CARD
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

SCALEBITS_HD inline float element_at(const void* values, ElementType type, std::int64_t at) {
  if (type == ElementType::f32) return static_cast<const float*>(values)[at];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(values)[at];
  return type == ElementType::f16 ? half_to_float(bits) : float_of(static_cast<std::uint32_t>(bits) << 16);
}

constexpr std::uint64_t element_bytes(ElementType type) { return type == ElementType::f32 ? 4 : 2; }

}  // namespace scalebits::cuda
