// Instructions that only sm_90a has, beside instructions.cuh: barriers in shared memory, bulk copies that arrive there,
// and products of a warpgroup, which go on by themselves. Tests that run kernels on the CPU put theirs in place of this
// file (tests/kernels/threads/).
#pragma once

#include "kernels/cuda/instructions.cuh"

namespace scalebits::cuda {

/// Of this warpgroup's threads from here on; what some give, others may take.
template <int registers>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

/// A word in shared memory that counts, phase by phase, arrivals of threads and bytes of copies. Phases have parity 0,
/// 1, 0, …
struct Barrier {
  std::uint64_t word;

  __device__ std::uint32_t address() const { return static_cast<std::uint32_t>(__cvta_generic_to_shared(&word)); }
  __device__ void init(unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ void arrive() { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory"); }
  /// Arrives, and says that so many bytes more of copies belong to this phase.
  __device__ void arrive_expecting(std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
  }
  /// Until the phase of this parity is over; the one before the first, of parity 1, is.
  __device__ void wait(unsigned parity) const {
    std::uint32_t over;
    do {
      asm volatile(
          "{ .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2; selp.u32 %0, 1, 0, over; }"
          : "=r"(over)
          : "r"(address()), "r"(parity)
          : "memory");
    } while (over == 0);
  }
};
/// After init(), before a __syncthreads(): copies see the barriers, too.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// A multiple of 16 bytes, aligned to 16, from global to shared memory, counted at the barrier.
__device__ inline void copy_bulk(void* shared, const void* global, std::uint32_t bytes, Barrier& barrier) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(global), "r"(bytes), "r"(barrier.address())
               : "memory");
}

/// wgmma's descriptor of tokens in shared memory, 64 inputs of f16 each: 128 bytes a token, whose pieces of 16 bytes
/// lie at piece ^ (token mod 8); aligned to 1024 bytes.
__device__ inline std::uint64_t describe_tokens(const void* tokens) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(tokens));
  constexpr std::uint64_t kSwizzled128 = std::uint64_t{1} << 62, kEightTokens = std::uint64_t{1024 >> 4} << 32,
                          kUnused = std::uint64_t{1} << 16;
  return kSwizzled128 | kEightTokens | kUnused | (address & 0x3ffff) >> 4;
}

/// 16 · steps inputs further: in the lower half, which holds the address in units of 16 bytes.
__device__ inline std::uint64_t further_inputs(std::uint64_t tokens, int steps) {
  return (tokens >> 32 << 32) | (static_cast<std::uint32_t>(tokens) + static_cast<std::uint32_t>(2 * steps));
}

/// Between what changes registers of products and the products.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void close_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until no more than `newest` groups of products are under way.
template <int newest>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(newest) : "memory");
}

#define SCALEBITS_8(c, i)                                                                                     \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), "+f"(c[i + 6]), \
      "+f"(c[i + 7])
/// c += a · b by a warpgroup, in the open group: 64 rows x 16 inputs, of which each warp has 16 rows as multiply_add()
/// has them; 16 inputs x 128 tokens in shared memory. c: for each 8 tokens what multiply_add() has. Neither a nor c may
/// be touched, nor b, until it has been waited for.
__device__ inline void multiply_add_async(float (&c)[64], const std::uint32_t* a, std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
      "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,"
      "%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
      : SCALEBITS_8(c, 0), SCALEBITS_8(c, 8), SCALEBITS_8(c, 16), SCALEBITS_8(c, 24), SCALEBITS_8(c, 32),
        SCALEBITS_8(c, 40), SCALEBITS_8(c, 48), SCALEBITS_8(c, 56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef SCALEBITS_8

}  // namespace scalebits::cuda
