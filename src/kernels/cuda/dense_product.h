// y = x · Wᵀ for weights that are not packed: f16, bf16 or f32 as the model has them, sums in f32. A plain kernel: 32
// threads a row, up to 8 tokens at once, each thread adding up every 32nd pair of inputs, then the 32 sums in order.
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/half.h"

namespace scalebits::cuda {

struct DenseProduct {
  static constexpr int kThreads = 256, kRows = kThreads / kLanes, kTokens = 8;
  struct Shared {
    float sums[kRows][kLanes][kTokens + 1];
  };

  const void* weights = nullptr;  // [rows, cols]
  ElementType type = ElementType::f16;
  int rows = 0;
  int cols = 0;
  const void* x = nullptr;  // [tokens, cols]
  ElementType x_type = ElementType::f16;
  int tokens = 0;
  float* y = nullptr;  // [tokens, rows]

  Grid grid() const {
    return {.x = static_cast<unsigned>(divide_up(rows, kRows)), .y = static_cast<unsigned>(divide_up(tokens, kTokens))};
  }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    const int first_row = block.x * kRows, first_token = block.y * kTokens;
    const int count = tokens - first_token < kTokens ? tokens - first_token : kTokens;
    block.each([&](int thread) {
      const int row = first_row + thread / kLanes, lane = thread % kLanes;
      float sums[kTokens] = {};
      for (int col = 2 * lane; row < rows && col < cols; col += 2 * kLanes) {
        const std::int64_t at = std::int64_t{row} * cols + col;
        const bool second = col + 1 < cols;
        const float low = element_at(weights, type, at), high = second ? element_at(weights, type, at + 1) : 0;
        SCALEBITS_UNROLL for (int t = 0; t < kTokens; ++t) {
          if (t >= count) continue;
          const std::int64_t input = std::int64_t{first_token + t} * cols + col;
          sums[t] += low * element_at(x, x_type, input);
          if (second) sums[t] += high * element_at(x, x_type, input + 1);
        }
      }
      SCALEBITS_UNROLL for (int t = 0; t < kTokens; ++t) shared.sums[thread / kLanes][lane][t] = sums[t];
    });
    block.each([&](int thread) {
      const int row = thread % kRows, t = thread / kRows;
      if (t >= count || first_row + row >= rows) return;
      float sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) sum += shared.sums[row][lane][t];
      y[std::int64_t{first_token + t} * rows + first_row + row] = sum;
    });
  }
};

}  // namespace scalebits::cuda
