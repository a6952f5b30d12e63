#include "graph/layer.h"

#include "core/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace scalebits {
namespace {

struct Widths {
  std::int64_t hidden, q, kv, intermediate;
  explicit Widths(const ModelSpec& spec)
      : hidden(spec.hidden), q(spec.heads * spec.head_dim), kv(spec.kv_heads * spec.head_dim),
        intermediate(spec.intermediate) {}
};

std::uint64_t size_of(at::ScalarType operand) { return operand == at::kFloat ? 4 : 2; }

/// The residual gradient in the operand type: itself for f32, else the copy that is already rounded.
at::Tensor operand_of(const at::Tensor& gradient, const at::Tensor& rounded) {
  return rounded.defined() ? rounded : gradient;
}

Attention attention_of(const LayerContext& context, const LayerActivations& a) {
  const ModelSpec& spec = context.spec;
  const auto heads_of = [&](const at::Tensor& rows, std::int64_t heads) {
    return rows.view({context.windows, context.length, heads, spec.head_dim});
  };
  return {heads_of(a.q, spec.heads),
          heads_of(a.k, spec.kv_heads),
          heads_of(a.v, spec.kv_heads),
          heads_of(a.attended, spec.heads),
          a.log_sums,
          spec.sliding_window};
}

}  // namespace

Norm fetch_norm(const ModelSpec& spec, WeightSource& source, const std::string& weight_name) {
  Norm norm{source.vector(weight_name), {}, spec.norm_eps};
  if (spec.norm == NormKind::layer) norm.bias = source.vector(norm_bias_name(weight_name));
  return norm;
}

LayerWeights fetch_layer(const ModelSpec& spec, WeightSource& source, std::int64_t layer, at::ScalarType operand,
                         Workspace& workspace, const Arithmetic& arithmetic) {
  LayerWeights weights;
  for (const LinearKind kind : linear_kinds(spec)) {
    const auto index = static_cast<std::size_t>(kind);
    at::Tensor weight = source.linear(layer, kind);
    const auto [rows, cols] = linear_shape(spec, kind);
    if (weight.sizes() != at::IntArrayRef({rows, cols}) || !weight.is_contiguous() ||
        (weight.scalar_type() != at::kFloat && weight.scalar_type() != operand))
      throw InternalError(fmt::format("{}: the weight source gave no contiguous [{}, {}] in f32 or the operand type",
                                      linear_name(layer, kind), rows, cols));
    if (weight.scalar_type() != operand) {
      const at::Tensor rounded = workspace.take(fmt::format("weight {}", index), weight.sizes(), operand);
      arithmetic.convert(weight, rounded);
      weight = rounded;
    }
    weights.linears[index] = std::move(weight);
    if (has_bias(spec, kind)) weights.biases[index] = source.vector(bias_name(layer, kind));
  }
  weights.attention_norm = fetch_norm(spec, source, layer_tensor(layer, "input_layernorm.weight"));
  weights.mlp_norm = fetch_norm(spec, source, layer_tensor(layer, "post_attention_layernorm.weight"));
  if (spec.qk_norm) {
    weights.q_norm = source.vector(layer_tensor(layer, "self_attn.q_norm.weight"));
    weights.k_norm = source.vector(layer_tensor(layer, "self_attn.k_norm.weight"));
  }
  return weights;
}

std::uint64_t layer_activation_bytes(const ModelSpec& spec, at::ScalarType operand) {
  const Widths w(spec);
  const auto operands = static_cast<std::uint64_t>((spec.qk_norm ? 3 : 2) * w.q + (spec.qk_norm ? 3 : 2) * w.kv +
                                                   (has_gate(spec) ? 2 : 1) * w.intermediate);
  return operands * size_of(operand) + 4 * static_cast<std::uint64_t>(w.hidden + spec.heads);
}

std::uint64_t layer_temporary_bytes(const ModelSpec& spec, at::ScalarType operand) {
  const Widths w(spec);
  // Forward and backward, and the two squared operands of GradientKind::tokens.
  const std::int64_t squares = 2 * std::max({w.intermediate, w.hidden, w.q});
  return static_cast<std::uint64_t>(w.intermediate + 3 * w.hidden + 5 * w.q + 2 * w.kv + squares) * size_of(operand);
}

void layer_forward(const LayerContext& context, const LayerWeights& weights, const LayerActivations& a,
                   const at::Tensor& y, const std::function<void(InputSite, const at::Tensor&)>& observe,
                   std::optional<InputSite> from, std::optional<InputSite> until) {
  const ModelSpec& spec = context.spec;
  const Arithmetic& run = context.arithmetic;
  const std::int64_t n = a.x.size(0);
  const auto temporary = [&](const char* name, std::int64_t width) {
    return context.workspace.take(name, {n, width}, context.operand);
  };
  const at::Tensor normed = temporary("normed", spec.hidden), delta = temporary("delta", spec.hidden),
                   product = temporary("product", spec.intermediate);
  const auto linear = [&](LinearKind kind, const at::Tensor& x, const at::Tensor& out) {
    run.product_forward(x, weights.linear(kind), out);
    if (weights.bias(kind).defined()) run.add_bias(out, weights.bias(kind));
  };
  const auto attention_input = [&] {
    run.add_norm(a.x, {}, weights.attention_norm, {}, normed);
    return normed;
  };
  const auto output_input = [&] {
    linear(LinearKind::q, normed, spec.qk_norm ? a.raw_q : a.q);
    linear(LinearKind::k, normed, spec.qk_norm ? a.raw_k : a.k);
    linear(LinearKind::v, normed, a.v);
    if (spec.qk_norm) {
      run.head_norm(a.raw_q, weights.q_norm, spec.norm_eps, a.q);
      run.head_norm(a.raw_k, weights.k_norm, spec.norm_eps, a.k);
    }
    if (spec.positions == PositionKind::rotary)
      for (const at::Tensor& rows : {a.q, a.k})
        run.rotate(context.rope, rows, context.length, context.first_position, 1);
    context.attention(attention_of(context, a));
    return a.attended;
  };
  const auto mlp_input = [&] {
    linear(LinearKind::o, a.attended, delta);
    run.add_norm(a.x, delta, weights.mlp_norm, a.middle, normed);
    return normed;
  };
  const auto down_input = [&] {
    const bool gated = has_gate(spec);
    if (gated) linear(LinearKind::gate, normed, a.gate);
    linear(LinearKind::up, normed, a.up);
    gated ? run.swiglu(a.gate, a.up, product) : run.relu(a.up, product);
    return product;
  };
  // Whether the pass ends here.
  const auto reach = [&](InputSite site, const auto& make) {
    if (from < site) {
      const at::Tensor input = make();
      if (observe) observe(site, input);
    }
    return until == site;
  };
  if (reach(InputSite::attention, attention_input) || reach(InputSite::output, output_input) ||
      reach(InputSite::mlp, mlp_input) || reach(InputSite::down, down_input))
    return;
  linear(LinearKind::down, product, delta);
  run.add(a.middle, delta, y);
}

void layer_backward(const LayerContext& context, const LayerWeights& weights, const LayerActivations& a,
                    const at::Tensor& dx,
                    const std::function<void(LinearKind, const at::Tensor& dy, const at::Tensor& x)>& take) {
  const ModelSpec& spec = context.spec;
  const Arithmetic& run = context.arithmetic;
  const std::int64_t n = a.x.size(0);
  const auto temporary = [&](const char* name, std::int64_t width) {
    return context.workspace.take(name, {n, width}, context.operand);
  };
  const auto hand_over = [&](LinearKind kind, const at::Tensor& dy, const at::Tensor& x) {
    if (take) take(kind, dy, x);
  };
  const at::Tensor rounded = context.operand == at::kFloat ? at::Tensor() : temporary("rounded gradient", spec.hidden);
  if (rounded.defined()) run.convert(dx, rounded);
  const at::Tensor normed = temporary("normed", spec.hidden);
  const at::Tensor d_normed = temporary("delta", spec.hidden);

  const at::Tensor product = temporary("product", spec.intermediate);
  run.product_input_gradient(operand_of(dx, rounded), weights.linear(LinearKind::down), product, false);
  const bool gated = has_gate(spec);
  gated ? run.swiglu_backward(a.gate, a.up, product) : run.relu_backward(a.up, product);
  hand_over(LinearKind::down, operand_of(dx, rounded), product);
  run.add_norm(a.middle, {}, weights.mlp_norm, {}, normed);
  if (gated) run.product_input_gradient(a.gate, weights.linear(LinearKind::gate), d_normed, false);
  run.product_input_gradient(a.up, weights.linear(LinearKind::up), d_normed, gated);
  hand_over(LinearKind::up, a.up, normed);
  if (gated) hand_over(LinearKind::gate, a.gate, normed);
  run.norm_backward(d_normed, a.middle, weights.mlp_norm, dx, rounded);

  const at::Tensor d_attended = temporary("attended gradient", spec.heads * spec.head_dim);
  run.product_input_gradient(operand_of(dx, rounded), weights.linear(LinearKind::o), d_attended, false);
  hand_over(LinearKind::o, operand_of(dx, rounded), a.attended);
  const at::Tensor dq = temporary("q gradient", a.q.size(1)), dk = temporary("k gradient", a.k.size(1)),
                   dv = temporary("v gradient", a.v.size(1));
  const Attention attention = attention_of(context, a);
  run.attend_backward(attention, {d_attended.view_as(attention.q), dq.view_as(attention.q), dk.view_as(attention.k),
                                  dv.view_as(attention.v)});
  if (spec.positions == PositionKind::rotary)
    for (const at::Tensor& rows : {dq, dk}) run.rotate(context.rope, rows, context.length, context.first_position, -1);
  if (spec.qk_norm) {
    run.head_norm_backward(dq, a.raw_q, weights.q_norm, spec.norm_eps);
    run.head_norm_backward(dk, a.raw_k, weights.k_norm, spec.norm_eps);
  }
  run.add_norm(a.x, {}, weights.attention_norm, {}, normed);
  run.product_input_gradient(dq, weights.linear(LinearKind::q), d_normed, false);
  run.product_input_gradient(dk, weights.linear(LinearKind::k), d_normed, true);
  run.product_input_gradient(dv, weights.linear(LinearKind::v), d_normed, true);
  hand_over(LinearKind::v, dv, normed);
  hand_over(LinearKind::k, dk, normed);
  hand_over(LinearKind::q, dq, normed);
  run.norm_backward(d_normed, a.x, weights.attention_norm, dx, {});
}

}  // namespace scalebits
