// One decoder layer over a run of tokens, forward and backward, on buffers the caller owns. Products run in the type of
// the operand buffers (f32 or bf16); the residual stream x is f32.
#pragma once

#include "graph/arithmetic.h"
#include "graph/observer.h"
#include "graph/rope.h"
#include "graph/weight_source.h"
#include "graph/workspace.h"
#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace scalebits {

/// A layer's weights, asked for once and dropped with the struct.
struct LayerWeights {
  std::array<at::Tensor, kLinearKinds.size()> linears;  // by LinearKind, in the operand type
  std::array<at::Tensor, kLinearKinds.size()> biases;   // f32. Of both: undefined where there is none
  Norm attention_norm, mlp_norm;
  at::Tensor q_norm, k_norm;  // f32; undefined without qk_norm

  const at::Tensor& linear(LinearKind kind) const { return linears[static_cast<std::size_t>(kind)]; }
  const at::Tensor& bias(LinearKind kind) const { return biases[static_cast<std::size_t>(kind)]; }
};
/// `weight_name`: as in required_tensors().
Norm fetch_norm(const ModelSpec& spec, WeightSource& source, const std::string& weight_name);
LayerWeights fetch_layer(const ModelSpec& spec, WeightSource& source, std::int64_t layer, at::ScalarType operand,
                         Workspace& workspace, const Arithmetic& arithmetic = host_arithmetic());

/// What the backward pass needs of the forward one, for n = windows * length tokens. Operand type unless said.
struct LayerActivations {
  at::Tensor x;             // [n, hidden] f32: the layer's input
  at::Tensor middle;        // [n, hidden] f32: after attention
  at::Tensor q, k, v;       // [n, heads * head_dim], [n, kv_heads * head_dim] twice; after rotation
  at::Tensor raw_q, raw_k;  // before their norm; undefined without qk_norm
  at::Tensor attended;      // [n, heads * head_dim]
  at::Tensor log_sums;      // [windows, heads, length] f32
  at::Tensor gate, up;  // [n, intermediate]; turned into their gradients by the backward pass. gate: where there is one
};
/// Bytes of all but x for each token.
std::uint64_t layer_activation_bytes(const ModelSpec& spec, at::ScalarType operand);
/// Bytes of the temporaries of either pass for each token.
std::uint64_t layer_temporary_bytes(const ModelSpec& spec, at::ScalarType operand);

/// What both passes read besides weights and activations.
struct LayerContext {
  const ModelSpec& spec;
  const RopeTable& rope;
  Workspace& workspace;
  at::ScalarType operand;
  std::int64_t windows, length;
  std::int64_t first_position = 0;                           // of each window's first token
  std::function<void(const Attention&)> attention = attend;  // of the forward pass; generation looks into its cache
  const Arithmetic& arithmetic = host_arithmetic();
};

/// Fills the activations from `x`; writes the layer's output [n, hidden] f32 to `y`, which may be x itself when no
/// backward pass follows. `observe` (may be empty) sees each site's input. In parts: a call ends with the input of
/// `until`, if that is given, and leaves `y` as it is; the next one, on the same activations and workspace, goes on
/// from there when it is told so by `from`.
void layer_forward(const LayerContext& context, const LayerWeights& weights, const LayerActivations& activations,
                   const at::Tensor& y, const std::function<void(InputSite, const at::Tensor&)>& observe,
                   std::optional<InputSite> from = {}, std::optional<InputSite> until = {});

/// `dx` [n, hidden] f32 holds d(y) and becomes d(x). `take` (may be empty) is given each linear's dy and x in the
/// operand type, to make the weight's gradient of.
void layer_backward(const LayerContext& context, const LayerWeights& weights, const LayerActivations& activations,
                    const at::Tensor& dx,
                    const std::function<void(LinearKind, const at::Tensor& dy, const at::Tensor& x)>& take);

}  // namespace scalebits
