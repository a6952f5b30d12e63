// The residual stream and its norms: x += delta (+ its bias), then out = x / sqrt(mean(x²) + eps) · weight, or with a
// bias of the norm LayerNorm, (x - mean) / sqrt(variance + eps) · weight + bias. One block a row.
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/half.h"

#include <cmath>

namespace scalebits::cuda {

struct Norm {
  static constexpr int kThreads = 256;
  using Shared = Reduction<kThreads>;

  float* x = nullptr;                    // [tokens, width]
  const float* delta = nullptr;          // [tokens, width]; null: nothing is added
  const float* delta_bias = nullptr;     // [width] or null
  const float* weight = nullptr;         // [width]
  const float* bias = nullptr;           // null: RMSNorm
  const std::int32_t* tokens = nullptr;  // [rows]: of which token row i is; x is then left as it was. Null: i, and x
                                         // becomes the sum
  float eps = 0;
  int rows = 0;
  int width = 0;
  std::uint16_t* out = nullptr;  // [rows, width], f16

  Grid grid() const { return {.x = static_cast<unsigned>(rows)}; }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    const bool stays = tokens != nullptr;
    const std::int64_t from = std::int64_t{stays ? tokens[block.x] : block.x} * width;
    const auto sum = [&](int i) {
      return delta == nullptr ? x[from + i]
                              : x[from + i] + (delta[from + i] + (delta_bias != nullptr ? delta_bias[i] : 0));
    };
    // What a thread has added to x it reads again itself.
    const auto value = [&](int i) { return stays ? sum(i) : x[from + i]; };
    block.each([&](int thread) {
      float total = 0;
      for (int i = thread; i < width; i += kThreads) {
        const float now = sum(i);
        if (!stays) x[from + i] = now;
        total += bias != nullptr ? now : now * now;
      }
      shared.values[thread] = total;
    });
    float mean = 0, squares = shared.total(block);
    if (bias != nullptr) {
      mean = squares / static_cast<float>(width);
      block.each([&](int thread) {
        float total = 0;
        for (int i = thread; i < width; i += kThreads) total += (value(i) - mean) * (value(i) - mean);
        shared.values[thread] = total;
      });
      squares = shared.total(block);
    }
    const float factor = 1 / sqrtf(squares / static_cast<float>(width) + eps);
    block.each([&](int thread) {
      for (int i = thread; i < width; i += kThreads)
        out[std::int64_t{block.x} * width + i] =
            float_to_half((value(i) - mean) * factor * weight[i] + (bias != nullptr ? bias[i] : 0));
    });
  }
};

}  // namespace scalebits::cuda
