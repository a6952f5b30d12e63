// The residual stream and its norms: x += delta (+ its bias), then out = x / sqrt(mean(x²) + eps) · weight, or with a
// bias of the norm LayerNorm, (x - mean) / sqrt(variance + eps) · weight + bias. One block a row.
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/half.h"

#include <cmath>

namespace scalebits::cuda {

struct Norm {
  static constexpr int kThreads = 512;
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

  /// Rows of up to so many channels, or of up to a quarter when their number is no multiple of 4.
  static constexpr int kMostWidth = 16384;

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    if (width % 4 == 0)
      run_row<FourFloats, 4>(block, shared);
    else
      run_row<OneFloat, 1>(block, shared);
  }

 private:
  static constexpr int kEach = kMostWidth / 4 / kThreads;
  struct OneFloat {
    float value[1];
  };
  /// What a thread has of the row, from the first phase to the last: all of it is asked for before any is waited for.
  template <typename Floats>
  struct Kept {
    Floats sum[kEach], weight[kEach];
  };
  template <typename Floats>
  SCALEBITS_HD static Floats load(const float* from, std::int64_t at) {
    return *reinterpret_cast<const Floats*>(from + at);
  }

  template <typename Floats, int kWide, typename Block>
  SCALEBITS_HD void run_row(Block& block, Shared& shared) const {
    const bool stays = tokens != nullptr;
    const std::int64_t from = std::int64_t{stays ? tokens[block.x] : block.x} * width;
    typename Block::template PerThread<Kept<Floats>> kept;
    // body(number of the thread's piece, its first channel)
    const auto pieces = [&](int thread, const auto& body) {
      SCALEBITS_UNROLL for (int j = 0; j < kEach; ++j) {
        const int i = (thread + j * kThreads) * kWide;
        if (i < width) body(j, i);
      }
    };
    block.each([&](int thread) {
      Kept<Floats>& mine = kept[thread];
      Floats added[kEach];
      pieces(thread, [&](int j, int i) {
        mine.sum[j] = load<Floats>(x, from + i);
        mine.weight[j] = load<Floats>(weight, i);
        if (delta != nullptr) added[j] = load<Floats>(delta, from + i);
      });
      if (delta != nullptr)
        pieces(thread, [&](int j, int i) {
          SCALEBITS_UNROLL for (int e = 0; e < kWide; ++e) {
            mine.sum[j].value[e] += added[j].value[e] + (delta_bias != nullptr ? delta_bias[i + e] : 0);
          }
          if (!stays) *reinterpret_cast<Floats*>(x + from + i) = mine.sum[j];
        });
      shared.values[thread] = total(mine, pieces, thread, 0, bias == nullptr);
    });
    float mean = 0, squares = shared.total(block);
    if (bias != nullptr) {
      mean = squares / static_cast<float>(width);
      block.each([&](int thread) { shared.values[thread] = total(kept[thread], pieces, thread, mean, true); });
      squares = shared.total(block);
    }
    const float factor = 1 / sqrtf(squares / static_cast<float>(width) + eps);
    block.each([&](int thread) {
      const Kept<Floats>& mine = kept[thread];
      pieces(thread, [&](int j, int i) {
        std::uint16_t halves[kWide];
        SCALEBITS_UNROLL for (int e = 0; e < kWide; ++e) {
          halves[e] = float_to_half((mine.sum[j].value[e] - mean) * factor * mine.weight[j].value[e] +
                                    (bias != nullptr ? bias[i + e] : 0));
        }
        std::uint16_t* const to = out + std::int64_t{block.x} * width + i;
        if constexpr (kWide == 4)
          *reinterpret_cast<TwoWords*>(to) = {
              {halves[0] | std::uint32_t{halves[1]} << 16, halves[2] | std::uint32_t{halves[3]} << 16}};
        else
          *to = halves[0];
      });
    });
  }

  /// Of what a thread has, less the mean; of its squares.
  template <typename Floats, typename Pieces>
  SCALEBITS_HD static float total(const Kept<Floats>& mine, const Pieces& pieces, int thread, float mean,
                                  bool squares) {
    float sum = 0;
    pieces(thread, [&](int j, int) {
      for (const float value : mine.sum[j].value) sum += squares ? (value - mean) * (value - mean) : value - mean;
    });
    return sum;
  }
};

}  // namespace scalebits::cuda
