// How an operation between products is written, once for the card and for the CPU. It is a struct of plain arguments
// with
//   kThreads            threads of a block
//   Shared              what the threads of a block share; nothing in it is set at first
//   grid()              how many blocks; they are independent but for arrives_last()
//   run(block, shared)  one block's work, in phases: block.each(body) calls body(thread) for every thread, then all
//   wait
// On the card each thread does its own part of a phase and a barrier follows (card_block.cuh); on the CPU a loop does
// all of them, in either order (emulated_device.cpp): a result that depends on the order means that a barrier is
// missing. The one subtle rule is about what lies outside of each(): the card does it in every thread, so it must come
// out the same in all of them, and shared memory that it reads must not be written in the phase that follows.
#pragma once

#include "kernels/cuda/host_device.h"

namespace scalebits::cuda {

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

/// Rounded up.
SCALEBITS_HD constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

/// What one instruction loads.
struct alignas(16) FourWords {
  std::uint32_t word[4];
};
struct alignas(8) TwoWords {
  std::uint32_t word[2];
};
struct alignas(16) FourFloats {
  float value[4];
};

/// For sums and largest values over the threads of a block, in a fixed tree. A phase writes `values`; total() or
/// largest() comes next, and their result is the same in all threads.
template <int kThreads>
struct Reduction {
  static constexpr int kParts = 16, kEach = kThreads / kParts;
  static_assert(kThreads % kParts == 0);
  float values[kThreads];
  float parts[kParts];

  template <typename Block, typename Join>
  SCALEBITS_HD float join(Block& block, const Join& add) {
    block.each([&](int thread) {
      if (thread >= kParts) return;
      float part = values[thread];  // neighbours read neighbours
      for (int i = 1; i < kEach; ++i) part = add(part, values[thread + i * kParts]);
      parts[thread] = part;
    });
    float all = parts[0];
    for (int i = 1; i < kParts; ++i) all = add(all, parts[i]);
    return all;
  }
  template <typename Block>
  SCALEBITS_HD float total(Block& block) {
    return join(block, [](float a, float b) { return a + b; });
  }
  /// NaN when one of them is.
  template <typename Block>
  SCALEBITS_HD float largest(Block& block) {
    return join(block, [](float a, float b) { return a != a || a > b ? a : b; });
  }
};

}  // namespace scalebits::cuda
