// The few instructions that CUDA C++ has no words for, and what every product does with a result.
#pragma once

#include "kernels/cuda/product_args.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace scalebits::cuda {

/// 16 bytes from global to shared memory, past the first cache, on their own; in the present group.
__device__ inline void copy_async(void* shared, const void* global) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
__device__ inline void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until no more than `newest` of this thread's groups are under way.
template <int newest>
__device__ inline void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
}

/// c += a · b: 16 rows x 16 inputs, 16 inputs x 8 tokens.
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

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
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrivals, 1) == sharers - 1;
    if (last) *arrivals = 0;
  }
  __syncthreads();
  const bool result = last;
  __threadfence();
  __syncthreads();  // before `last` is written again
  return result;
}

}  // namespace scalebits::cuda
