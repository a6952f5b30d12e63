// Between the MLP's products: gate = silu(gate + its bias) · (up + its bias), or without a gate max(up + its bias, 0).
#pragma once

#include "kernels/cuda/block.h"

#include <cmath>

namespace scalebits::cuda {

struct Activate {
  static constexpr int kThreads = 256;
  struct Shared {};

  float* gate = nullptr;             // [rows, width]; null: the MLP has none
  float* up = nullptr;               // [rows, width]
  const float* gate_bias = nullptr;  // [width] or null
  const float* up_bias = nullptr;
  int rows = 0;
  int width = 0;

  Grid grid() const {
    return {.x = static_cast<unsigned>(divide_up(width, kThreads)), .y = static_cast<unsigned>(rows)};
  }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared&) const {
    block.each([&](int thread) {
      const int i = block.x * kThreads + thread;
      if (i >= width) return;
      const std::int64_t at = std::int64_t{block.y} * width + i;
      const float right = up[at] + (up_bias != nullptr ? up_bias[i] : 0);
      if (gate == nullptr) {
        up[at] = right < 0 ? 0 : right;  // NaN stays NaN
        return;
      }
      const float left = gate[at] + (gate_bias != nullptr ? gate_bias[i] : 0);
      gate[at] = left / (1 + expf(-left)) * right;
    });
  }
};

}  // namespace scalebits::cuda
