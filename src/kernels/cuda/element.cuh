// Activations as they are given, and as products see them.
#pragma once

#include "kernels/cuda/product_args.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace scalebits::cuda {

template <ElementType type>
__device__ float element(const void* x, std::int64_t at) {
  if constexpr (type == ElementType::f32) return static_cast<const float*>(x)[at];
  if constexpr (type == ElementType::f16) return __half2float(static_cast<const __half*>(x)[at]);
  if constexpr (type == ElementType::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[at]);
}

/// An activation between being asked for and being used.
template <ElementType type>
struct Element {
  float value;
  __device__ static Element at(const void* x, std::int64_t i) { return {element<type>(x, i)}; }
  /// Times the inverse of a token's factor, a power of two, as f16; f16 is taken as it is.
  __device__ __half rounded(float inverse) const { return __float2half_rn(value * inverse); }
};
template <>
struct Element<ElementType::f16> {
  __half value;
  __device__ static Element at(const void* x, std::int64_t i) { return {static_cast<const __half*>(x)[i]}; }
  __device__ __half rounded(float) const { return value; }
};

}  // namespace scalebits::cuda
