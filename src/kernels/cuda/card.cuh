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

/// A counter of blocks, and how many come to it.
struct Arrival {
  std::uint32_t* counter = nullptr;  // null: nobody does
  std::uint32_t sharers = 0;
};
/// Bit 0: this block has arrived last at the first, bit 1: at the second. Then what the others wrote before can be
/// read, and the counter is zero again. For all threads of the block.
__device__ inline unsigned arrive(Arrival first, Arrival second = {}) {
  __threadfence();
  __syncthreads();
  const Arrival mine = threadIdx.x == 0 ? first : second;
  bool last = false;
  if (threadIdx.x < 2 && mine.counter != nullptr) {
    last = atomicAdd(mine.counter, 1) == mine.sharers - 1;
    if (last) *mine.counter = 0;
  }
  unsigned is_last = __syncthreads_or(last && threadIdx.x == 0) != 0 ? 1 : 0;
  if (second.counter != nullptr && __syncthreads_or(last && threadIdx.x == 1) != 0) is_last |= 2;
  __threadfence();
  return is_last;
}

}  // namespace scalebits::cuda
