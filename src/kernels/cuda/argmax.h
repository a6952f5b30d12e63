// The likeliest token of each row of logits: the largest, the lowest number among equals; -1 when a logit is not
// finite. 32 blocks share a row; the one that arrives last compares their results.
#pragma once

#include "kernels/cuda/block.h"

#include <cfloat>
#include <cmath>

namespace scalebits::cuda {

struct Argmax {
  static constexpr int kThreads = 256, kSplits = 32, kStep = kSplits * kThreads;
  static constexpr int kAtOnce = 4;  // logits on their way to a thread
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
      for (int first = block.x * kThreads + thread; first < count; first += kAtOnce * kStep) {
        float logit[kAtOnce];
        SCALEBITS_UNROLL for (int j = 0; j < kAtOnce; ++j) {
          logit[j] = first + j * kStep < count ? row[first + j * kStep] : -FLT_MAX;
        }
        SCALEBITS_UNROLL for (int j = 0; j < kAtOnce; ++j) {
          if (!(fabsf(logit[j]) <= FLT_MAX)) best.id = -1;
          best = better(best, {logit[j], first + j * kStep});
        }
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
      if (thread < kSplits) shared.best[thread] = of_row[thread];
    });
    block.each([&](int thread) {
      if (thread != 0) return;
      Best best = shared.best[0];
      SCALEBITS_KEEP_LOOP for (int split = 1; split < kSplits; ++split) { best = better(best, shared.best[split]); }
      ids[block.y] = best.id;
    });
  }

 private:
  SCALEBITS_HD static Best better(const Best& a, const Best& b) {
    if (a.id < 0 || b.id < 0) return {0, -1};
    return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
  }
};

}  // namespace scalebits::cuda
