// A block of threads on the card, as operations see it (block.h).
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/card.cuh"

namespace scalebits::cuda {

struct CardBlock {
  int x, y, z;

  /// What a thread keeps from phase to phase: registers.
  template <typename T>
  struct PerThread {
    T own = {};
    SCALEBITS_HD T& operator[](int) { return own; }
  };
  template <typename Body>
  SCALEBITS_HD void each(const Body& body) const {
#if SCALEBITS_HAS_THREADS
    body(static_cast<int>(threadIdx.x));
    __syncthreads();
#endif
  }
  SCALEBITS_HD bool arrives_last(std::uint32_t* arrivals, std::uint32_t sharers) const {
#if SCALEBITS_HAS_THREADS
    return sharers == 1 || arrive({arrivals, sharers}) != 0;
#else
    return arrivals != nullptr && sharers != 0;
#endif
  }
};

}  // namespace scalebits::cuda
