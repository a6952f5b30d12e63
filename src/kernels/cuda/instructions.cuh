// The few instructions that CUDA C++ has no words for. Tests that run kernels on the CPU put theirs in place of this
// file (tests/kernels/threads/).
#pragma once

#include "kernels/cuda/host_device.h"

#include <cuda_runtime.h>

/// Are there threads here? No: code for the host that nvcc parses along with the card's.
#define SCALEBITS_HAS_THREADS SCALEBITS_ON_CARD

namespace scalebits::cuda {

// Kernels overlap (start.h): the next one may begin when every block of this one has let it, and its blocks run
// wherever there is room. Until it has waited for the earlier ones it may touch nothing that a kernel writes, nor write
// anything that a kernel reads; weights and schedules it may. Every thread waits, or the kernel after it would not
// know. On cards before 9.0 kernels do not overlap, and both do nothing.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// A block's shared memory whose size the launch says.
__device__ inline std::uint8_t* shared_memory() {
  extern __shared__ __align__(128) std::uint8_t memory[];
  return memory;
}

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

/// Four matrices of 8 x 8 f16 out of shared memory, turned round. A lane names 16 bytes: row (lane mod 8) of matrix
/// (lane / 8). Register i: of matrix i, rows 2 · (lane mod 4) and the next of column lane / 4.
__device__ inline void load_transposed(std::uint32_t (&to)[4], const void* row) {
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

}  // namespace scalebits::cuda
