// A decoder as its device is told of it: shape and weights in host memory, plain types alone. What a model lacks is
// empty.
#pragma once

#include "kernels/cuda/product_args.h"
#include "kernels/cuda/stored_tiles.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

namespace scalebits::cuda {

struct DecoderShape {
  int layers = 0, hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  int window = 0;  // positions that a token sees; 0: all
  float norm_eps = 0;
  bool gated = true;                // silu(gate) · up; else max(up, 0)
  std::vector<double> frequencies;  // of rotation, radians per position, [head_dim / 2]; empty: nothing is turned
  int position_offset = 0;          // of the table of positions: the row that position 0 takes
};

/// [rows, cols], row-major.
struct DenseMatrix {
  std::span<const std::byte> bytes;
  ElementType type = ElementType::f16;
  std::int64_t rows = 0, cols = 0;
};
using HostMatrix = std::variant<DenseMatrix, StoredMatrix>;

struct NormWeights {
  std::span<const float> weight, bias;  // bias: of a LayerNorm
};

/// A layer's matrices and their biases, in the order they run: the places of arrays below.
enum Role { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kRoles = 7;

struct LayerWeights {
  std::array<HostMatrix, kRoles> matrices;
  std::array<std::span<const float>, kRoles> biases;
  NormWeights attention_norm, mlp_norm;
  std::span<const float> q_norm, k_norm;
};

struct DecoderWeights {
  HostMatrix embedding;
  std::optional<HostMatrix> positions, head;  // no head: it is the embedding
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
};

}  // namespace scalebits::cuda
