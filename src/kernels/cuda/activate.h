// Between the MLP's products: gate = silu(gate + its bias) · (up + its bias), or without a gate max(up + its bias, 0).
// Leaves the largest of each block's results for the scale of the product that reads them.
#pragma once

#include "kernels/cuda/block.h"

#include <cmath>

namespace scalebits::cuda {

SCALEBITS_HD inline float with_gate(float gate, float up) { return gate / (1 + expf(-gate)) * up; }
SCALEBITS_HD inline float without_gate(float up) { return up < 0 ? 0 : up; }  // NaN stays NaN

struct Activate {
  static constexpr int kThreads = 256;
  using Shared = Reduction<kThreads>;

  float* gate = nullptr;             // [rows, width]; null: the MLP has none
  float* up = nullptr;               // [rows, width]
  const float* gate_bias = nullptr;  // [width] or null
  const float* up_bias = nullptr;
  int rows = 0;
  int width = 0;
  float* maxima = nullptr;  // [rows, pieces(width)]: largest |result| of each block's, NaN when one of them is

  SCALEBITS_HD static constexpr int pieces(int width) { return static_cast<int>(divide_up(width, kThreads)); }
  Grid grid() const { return {.x = static_cast<unsigned>(pieces(width)), .y = static_cast<unsigned>(rows)}; }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    block.each([&](int thread) {
      const int i = block.x * kThreads + thread;
      shared.values[thread] = i < width ? fabsf(activate(std::int64_t{block.y} * width + i, i)) : 0;
    });
    const float largest = shared.largest(block);
    block.each([&](int thread) {
      if (thread == 0) maxima[std::int64_t{block.y} * pieces(width) + block.x] = largest;
    });
  }

 private:
  SCALEBITS_HD float activate(std::int64_t at, int i) const {
    const float right = up[at] + (up_bias != nullptr ? up_bias[i] : 0);
    if (gate == nullptr) return up[at] = without_gate(right);
    return gate[at] = with_gate(gate[at] + (gate_bias != nullptr ? gate_bias[i] : 0), right);
  }
};

}  // namespace scalebits::cuda
