// What every product does with a result.
#pragma once

#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/product_args.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace scalebits::cuda {

/// Of the matrices in the stream, the one that the panel belongs to.
__device__ inline int part_of(const ProductArgs& args, std::uint32_t panel) {
  int part = 0;
#pragma unroll
  for (int i = 1; i < kMostParts; ++i)
    if (i < args.matrix.parts && panel >= args.part[i].first_panel) part = i;
  return part;
}

/// Row `row` (0 to 63) of the panel, scattered; what lies beyond the matrix or the tokens is dropped.
__device__ inline void store_result(const ProductArgs& args, std::uint32_t panel, int row, int token, float value) {
  const PartView& part = args.part[part_of(args, panel)];
  const std::uint32_t stored = (panel - part.first_panel) * kPanelRows + row;
  if (stored >= part.rows || token >= args.x.tokens) return;
  if (args.x.factors != nullptr) value *= args.x.factors[token];
  const std::int64_t at = token * part.y_stride + (part.row_order != nullptr ? part.row_order[stored] : stored);
  if (args.output == ElementType::f32) static_cast<float*>(part.y)[at] = value;
  if (args.output == ElementType::f16) static_cast<__half*>(part.y)[at] = __float2half_rn(value);
  if (args.output == ElementType::bf16) static_cast<__nv_bfloat16*>(part.y)[at] = __float2bfloat16_rn(value);
}

/// Has this block arrived last of `sharers` at the panel? Then what the others wrote before can be read, and the
/// counter is zero again. For all threads of the block.
__device__ inline bool arrives_last(std::uint32_t* arrivals, std::uint32_t sharers) {
  bool last = false;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrivals, 1) == sharers - 1;
    if (last) *arrivals = 0;
  }
  last = __syncthreads_or(last) != 0;
  __threadfence();
  return last;
}

}  // namespace scalebits::cuda
