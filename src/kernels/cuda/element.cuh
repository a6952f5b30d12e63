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

/// x / divisor as f16; f16 is taken as it is.
template <ElementType type>
__device__ __half rounded(const void* x, std::int64_t at, float divisor) {
  if constexpr (type == ElementType::f16) return static_cast<const __half*>(x)[at];
  return __float2half_rn(element<type>(x, at) / divisor);
}

}  // namespace scalebits::cuda
