// Random decoders without any library but the standard one (cuda_random.h), to check and to measure on a card.
#pragma once

#include "cuda_random.h"

#include "core/float_types.h"
#include "kernels/cuda/decoder.h"

#include <cmath>
#include <deque>
#include <memory>
#include <utility>

namespace scalebits::cuda {

struct RandomModelOptions {
  DecoderShape shape = {};
  std::vector<std::pair<int, int>> widths = {{0, 5}, {1, 10}, {2, 25}, {3, 25}, {4, 15},
                                             {5, 5}, {6, 5},  {7, 5},  {8, 5}};
  int head_bits = 6;       // 16: dense
  bool orders = true;      // gathers and scatters
  bool extras = false;     // biases, LayerNorm, norms of heads
  bool one_layer = false;  // all layers are the same bytes in host memory: for large models
};

/// Owns what its weights refer to.
struct RandomModel {
  DecoderShape shape;
  DecoderWeights weights;
  std::deque<OwnedMatrix> packed;
  std::deque<std::vector<std::uint16_t>> dense;
  std::deque<std::vector<float>> vectors;

  RandomModel(Draw& draw, const RandomModelOptions& options) : shape(options.shape) {
    const auto vector = [&](std::int64_t count, float centre, float reach) -> std::span<const float> {
      std::vector<float>& values = vectors.emplace_back(static_cast<std::size_t>(count));
      for (float& value : values) value = centre + reach * draw.real();
      return values;
    };
    const auto norm = [&](std::int64_t width) {
      return NormWeights{vector(width, 1, 0.2f), options.extras ? vector(width, 0, 0.2f) : std::span<const float>{}};
    };
    const auto matrix = [&](std::int64_t rows, std::int64_t cols, bool orders,
                            const std::vector<std::pair<int, int>>& mix, const OwnedMatrix* like) -> HostMatrix {
      StoredShape stored = usual_shape(rows, cols);
      // So that a row of uniform codes keeps the size of its inputs.
      stored.scale_base = 3 / std::sqrt(static_cast<float>(cols)), stored.scale_step_log2 = 0.01f;
      std::vector<std::uint8_t> widths(block_count(stored));
      for (std::uint8_t& width : widths) {
        std::int64_t at = draw.below(100);
        for (const auto& [bits, share] : mix) {
          width = static_cast<std::uint8_t>(bits);
          if ((at -= share) < 0) break;
        }
      }
      OwnedMatrix& owned = packed.emplace_back(random_matrix(draw, stored, std::move(widths), orders, orders));
      if (like != nullptr) owned.input_order = like->input_order;
      return owned.view();
    };
    const auto dense_matrix = [&](std::int64_t rows, std::int64_t cols) -> HostMatrix {
      std::vector<std::uint16_t>& values = dense.emplace_back(static_cast<std::size_t>(rows * cols));
      const float reach = std::sqrt(3 / static_cast<float>(cols));
      for (std::uint16_t& value : values) value = f32_to_f16(reach * draw.real());
      return DenseMatrix{std::as_bytes(std::span(values)), ElementType::f16, rows, cols};
    };
    const std::vector<std::pair<int, int>> head_mix = {{options.head_bits, 100}};
    weights.embedding = options.head_bits == 16 ? dense_matrix(shape.vocab, shape.hidden)
                                                : matrix(shape.vocab, shape.hidden, false, head_mix, nullptr);
    weights.final_norm = norm(shape.hidden);
    const std::int64_t q_width = std::int64_t{shape.heads} * shape.head_dim,
                       kv_width = std::int64_t{shape.kv_heads} * shape.head_dim;
    for (int i = 0; i < shape.layers; ++i) {
      if (i > 0 && options.one_layer) {
        weights.layers.push_back(weights.layers[0]);
        continue;
      }
      LayerWeights& layer = weights.layers.emplace_back();
      const auto take = [&](Role role, std::int64_t rows, std::int64_t cols, const OwnedMatrix* like) {
        layer.matrices[role] = matrix(rows, cols, options.orders, options.widths, like);
        if (options.extras) layer.biases[role] = vector(rows, 0, 0.2f);
        return &packed.back();
      };
      const OwnedMatrix* const q = take(kQ, q_width, shape.hidden, nullptr);
      take(kK, kv_width, shape.hidden, q);
      take(kV, kv_width, shape.hidden, q);
      take(kO, shape.hidden, q_width, nullptr);
      const OwnedMatrix* gate = shape.gated ? take(kGate, shape.intermediate, shape.hidden, nullptr) : nullptr;
      take(kUp, shape.intermediate, shape.hidden, gate);
      take(kDown, shape.hidden, shape.intermediate, nullptr);
      layer.attention_norm = norm(shape.hidden);
      layer.mlp_norm = norm(shape.hidden);
      if (options.extras)
        layer.q_norm = vector(shape.head_dim, 1, 0.2f), layer.k_norm = vector(shape.head_dim, 1, 0.2f);
    }
  }
};

inline std::vector<double> usual_frequencies(int head_dim) {
  std::vector<double> frequencies;
  for (int i = 0; i < head_dim / 2; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / head_dim));
  return frequencies;
}

}  // namespace scalebits::cuda
