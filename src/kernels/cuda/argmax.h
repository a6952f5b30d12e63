// The likeliest token of each row of logits: the largest, the lowest number among equals; -1 when a logit is not
// finite. 32 blocks share a row; the one that arrives last compares their results.
#pragma once

#include "kernels/cuda/block.h"

#include <cfloat>
#include <cmath>

namespace scalebits::cuda {

struct Argmax {
  static constexpr int kThreads = 256, kSplits = 32;
  struct Best {
    float logit;
    std::int32_t id;  // -1: one is not finite
  };
  struct Shared {
    Best best[kThreads];
  };

  const float* logits = nullptr;  // [rows, count]
  int rows = 0;
  int count = 0;
  Best* parts = nullptr;              // [rows, kSplits]
  std::uint32_t* arrivals = nullptr;  // [rows], zero between launches
  std::int32_t* ids = nullptr;        // [rows]

  Grid grid() const { return {.x = kSplits, .y = static_cast<unsigned>(rows)}; }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    const float* const row = logits + std::int64_t{block.y} * count;
    Best* const of_row = parts + std::int64_t{block.y} * kSplits;
    block.each([&](int thread) {
      Best best{-FLT_MAX, count};
      for (int i = block.x * kThreads + thread; i < count; i += kSplits * kThreads) {
        const float logit = row[i];
        if (!(fabsf(logit) <= FLT_MAX)) best.id = -1;
        best = better(best, {logit, i});
      }
      shared.best[thread] = best;
    });
    SCALEBITS_KEEP_LOOP for (int step = kThreads / 2; step > 0; step /= 2) {
      block.each([&](int thread) {
        if (thread < step) shared.best[thread] = better(shared.best[thread], shared.best[thread + step]);
      });
    }
    block.each([&](int thread) {
      if (thread == 0) of_row[block.x] = shared.best[0];
    });
    if (!block.arrives_last(arrivals + block.y, kSplits)) return;
    block.each([&](int thread) {
      if (thread != 0) return;
      Best best{-FLT_MAX, count};
      SCALEBITS_KEEP_LOOP for (int split = 0; split < kSplits; ++split) {
        const std::uint32_t id = bits_of_others(&of_row[split].id);
        best = better(best, {load_of_others(&of_row[split].logit), static_cast<std::int32_t>(id)});
      }
      ids[block.y] = best.id;
    });
  }

 private:
  SCALEBITS_HD static Best better(const Best& a, const Best& b) {
    if (a.id < 0 || b.id < 0) return {0, -1};
    return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
  }
  SCALEBITS_HD static std::uint32_t bits_of_others(const std::int32_t* from) {
#if SCALEBITS_ON_CARD
    std::uint32_t value;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
#else
    return static_cast<std::uint32_t>(*from);
#endif
  }
};

}  // namespace scalebits::cuda
