#include "train/training_graph.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "graph/denormals.h"
#include "graph/embedding.h"
#include "graph/head_loss.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

namespace scalebits {

/// One step's batch and how its products run.
struct TrainingGraph::Pass {
  const PrecisionScheme& scheme;
  std::uint64_t step;
  StepObserver* observer;  // may be null
  std::int64_t windows, length;
  bool backward;

  std::int64_t tokens() const { return windows * length; }
};

namespace {

void check_ids(const ModelSpec& spec, const at::Tensor& ids) {
  if (ids.dim() != 2 || ids.scalar_type() != at::kLong || !ids.is_contiguous() || ids.numel() == 0)
    throw InternalError("ids must be a contiguous, non-empty [windows, length] int64 tensor");
  if (ids.size(1) > spec.max_positions)
    fail_input("a window of {} tokens is longer than the model's {} positions", ids.size(1), spec.max_positions);
  const auto* const id = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    if (id[i] < 0 || id[i] >= spec.vocab) fail_input("token id {} is outside the vocabulary of {}", id[i], spec.vocab);
}

Attention attention_of(const ModelSpec& spec, std::int64_t windows, std::int64_t length, const LayerActivations& a) {
  const auto heads_of = [&](const at::Tensor& rows, std::int64_t heads) {
    return rows.view({windows, length, heads, spec.head_dim});
  };
  return {heads_of(a.q, spec.heads),
          heads_of(a.k, spec.kv_heads),
          heads_of(a.v, spec.kv_heads),
          heads_of(a.attended, spec.heads),
          a.log_sums,
          spec.sliding_window};
}

const std::string kAttentionNorm = "input_layernorm.weight", kMlpNorm = "post_attention_layernorm.weight";

}  // namespace

TrainingGraph::TrainingGraph(Parameters& parameters, const TrainingGraphOptions& options)
    : parameters_(parameters), options_(options), rope_(parameters.spec(), parameters.place().device),
      workspace_(parameters.place().device) {
  require_trainable(parameters.spec(), "training graph");
  at::set_num_threads(thread_count());
}

std::uint64_t TrainingGraph::rounding_key(std::uint64_t step, std::size_t linear, LinearProduct product) const {
  return CounterRng(options_.seed, 0x726f756e64000000ull + step).bits(3 * linear + static_cast<std::uint64_t>(product));
}

at::Tensor TrainingGraph::temporary(const Pass& pass, const char* name, std::int64_t width) {
  return workspace_.take(name, {pass.tokens(), width}, options_.operand);
}

at::Tensor TrainingGraph::layer_input(const Pass& pass, std::int64_t layer) {
  // Without a backward pass the stream is changed in place.
  return workspace_.take(fmt::format("input of layer {}", pass.backward ? layer : 0), {pass.tokens(), spec().hidden},
                         at::kFloat);
}

Norm TrainingGraph::norm(const std::string& weight_name) {
  return {parameters_.vector(weight_name), {}, spec().norm_eps};
}

LayerActivations TrainingGraph::activations(const Pass& pass, std::int64_t layer) {
  const std::int64_t slot = pass.backward ? layer : 0, n = pass.tokens();
  const std::int64_t q = spec().heads * spec().head_dim, kv = spec().kv_heads * spec().head_dim;
  const auto take = [&](const char* name, at::IntArrayRef shape, at::ScalarType type) {
    return workspace_.take(fmt::format("{} {}", name, slot), shape, type);
  };
  LayerActivations a;
  a.x = layer_input(pass, layer);
  a.middle = take("middle", {n, spec().hidden}, at::kFloat);
  a.q = take("q", {n, q}, options_.operand);
  a.k = take("k", {n, kv}, options_.operand);
  a.v = take("v", {n, kv}, options_.operand);
  a.attended = take("attended", {n, q}, options_.operand);
  a.log_sums = take("log sums", {pass.windows, spec().heads, pass.length}, at::kFloat);
  a.gate = take("gate", {n, spec().intermediate}, options_.operand);
  a.up = take("up", {n, spec().intermediate}, options_.operand);
  return a;
}

void TrainingGraph::forward_layer(Pass& pass, std::int64_t layer, const at::Tensor& y) {
  const LayerActivations a = activations(pass, layer);
  const auto linear = [&](LinearKind kind, ProductInput& x, const at::Tensor& out) {
    const std::size_t index = linear_index(spec(), layer, kind);
    quantized_forward({pass.scheme[index].forward}, x, parameters_.linear(layer, kind), out, products());
    if (pass.observer != nullptr) pass.observer->after_forward(index, out);
  };
  const at::Tensor normed = temporary(pass, "normed", spec().hidden);
  run().add_norm(a.x, {}, norm(layer_tensor(layer, kAttentionNorm)), {}, normed);
  {
    ProductInput input(normed, products());
    linear(LinearKind::q, input, a.q);
    linear(LinearKind::k, input, a.k);
    linear(LinearKind::v, input, a.v);
  }
  for (const at::Tensor& rows : {a.q, a.k}) run().rotate(rope_, rows, pass.length, 0, 1);
  run().attend(attention_of(spec(), pass.windows, pass.length, a));
  const at::Tensor delta = temporary(pass, "delta", spec().hidden);
  {
    ProductInput input(a.attended, products());
    linear(LinearKind::o, input, delta);
  }
  run().add_norm(a.x, delta, norm(layer_tensor(layer, kMlpNorm)), a.middle, normed);
  {
    ProductInput input(normed, products());
    linear(LinearKind::gate, input, a.gate);
    linear(LinearKind::up, input, a.up);
  }
  const at::Tensor product = temporary(pass, "product", spec().intermediate);
  run().swiglu(a.gate, a.up, product);
  {
    ProductInput input(product, products());
    linear(LinearKind::down, input, delta);
  }
  run().add(a.middle, delta, y);
}

void TrainingGraph::backward_layer(Pass& pass, std::int64_t layer, const at::Tensor& dx) {
  const LayerActivations a = activations(pass, layer);
  const auto input_gradient = [&](LinearKind kind, const at::Tensor& dy, const at::Tensor& out, bool accumulate) {
    const std::size_t index = linear_index(spec(), layer, kind);
    quantized_input_gradient(
        {pass.scheme[index].input_gradient, rounding_key(pass.step, index, LinearProduct::input_gradient)}, dy,
        parameters_.linear(layer, kind), out, accumulate, products());
  };
  const auto weight_gradient = [&](LinearKind kind, const at::Tensor& dy, ProductInput& x) {
    const std::size_t index = linear_index(spec(), layer, kind);
    quantized_weight_gradient(
        {pass.scheme[index].weight_gradient, rounding_key(pass.step, index, LinearProduct::weight_gradient)}, dy, x,
        parameters_.of_linear(layer, kind).gradient, products());
    if (pass.observer != nullptr) pass.observer->after_backward(index, x, dy);
  };
  const auto site_seen = [&](InputSite site, const at::Tensor& gradient) {
    if (pass.observer != nullptr) pass.observer->site_gradient(layer, site, gradient);
  };
  const auto residual_operand = [&] {
    if (options_.operand == at::kFloat) return dx;
    const at::Tensor rounded = temporary(pass, "rounded gradient", spec().hidden);
    run().convert(dx, rounded);
    return rounded;
  };
  /// The norm in front of a half: its weight's gradient, and the half's gradient joins the residual stream's.
  const auto through_norm = [&](InputSite half, const std::string& name, const at::Tensor& d_normed,
                                const at::Tensor& x) {
    place().train->norm_weight_gradient(d_normed, x, spec().norm_eps,
                                        parameters_.at(layer_tensor(layer, name)).gradient);
    run().norm_backward(d_normed, x, norm(layer_tensor(layer, name)), dx, {});
    if (pass.observer != nullptr) pass.observer->residual_gradient(layer, half, dx);
  };
  const at::Tensor normed = temporary(pass, "normed", spec().hidden);
  const at::Tensor d_normed = temporary(pass, "delta", spec().hidden);
  const at::Tensor product = temporary(pass, "product", spec().intermediate);

  at::Tensor dy = residual_operand();
  input_gradient(LinearKind::down, dy, product, false);
  site_seen(InputSite::down, product);
  run().swiglu_backward(a.gate, a.up, product);
  {
    ProductInput input(product, products());
    weight_gradient(LinearKind::down, dy, input);
  }
  run().add_norm(a.middle, {}, norm(layer_tensor(layer, kMlpNorm)), {}, normed);
  input_gradient(LinearKind::gate, a.gate, d_normed, false);
  input_gradient(LinearKind::up, a.up, d_normed, true);
  site_seen(InputSite::mlp, d_normed);
  {
    ProductInput input(normed, products());
    weight_gradient(LinearKind::up, a.up, input);
    weight_gradient(LinearKind::gate, a.gate, input);
  }
  through_norm(InputSite::mlp, kMlpNorm, d_normed, a.middle);

  dy = residual_operand();
  const at::Tensor d_attended = temporary(pass, "attended gradient", spec().heads * spec().head_dim);
  input_gradient(LinearKind::o, dy, d_attended, false);
  site_seen(InputSite::output, d_attended);
  {
    ProductInput input(a.attended, products());
    weight_gradient(LinearKind::o, dy, input);
  }
  const at::Tensor dq = temporary(pass, "q gradient", a.q.size(1)), dk = temporary(pass, "k gradient", a.k.size(1)),
                   dv = temporary(pass, "v gradient", a.v.size(1));
  const Attention attention = attention_of(spec(), pass.windows, pass.length, a);
  run().attend_backward(attention, {d_attended.view_as(attention.q), dq.view_as(attention.q), dk.view_as(attention.k),
                                    dv.view_as(attention.v)});
  for (const at::Tensor& rows : {dq, dk}) run().rotate(rope_, rows, pass.length, 0, -1);
  run().add_norm(a.x, {}, norm(layer_tensor(layer, kAttentionNorm)), {}, normed);
  input_gradient(LinearKind::q, dq, d_normed, false);
  input_gradient(LinearKind::k, dk, d_normed, true);
  input_gradient(LinearKind::v, dv, d_normed, true);
  site_seen(InputSite::attention, d_normed);
  {
    ProductInput input(normed, products());
    weight_gradient(LinearKind::v, dv, input);
    weight_gradient(LinearKind::k, dk, input);
    weight_gradient(LinearKind::q, dq, input);
  }
  through_norm(InputSite::attention, kAttentionNorm, d_normed, a.x);
}

/// Returns the output of the last layer, before the final norm.
at::Tensor TrainingGraph::forward(Pass& pass, const at::Tensor& ids) {
  check_ids(spec(), ids);
  SCALEBITS_ASSERT(pass.scheme.size() == linear_count(spec()));
  rope_.reserve(pass.length);
  embed(parameters_, fetch_positions(spec(), parameters_), ids, 0, layer_input(pass, 0), run().add);
  for (std::int64_t layer = 0; layer < spec().layers; ++layer) forward_layer(pass, layer, layer_input(pass, layer + 1));
  return layer_input(pass, spec().layers);
}

LossResult TrainingGraph::loss(const at::Tensor& ids, const PrecisionScheme& scheme) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  Pass pass{scheme, 0, nullptr, ids.size(0), ids.size(1), false};
  const at::Tensor last = forward(pass, ids);
  const at::Tensor hidden = workspace_.take("final hidden", last.sizes(), at::kFloat);
  run().add_norm(last, {}, norm(std::string(kFinalNormName)), {}, hidden);
  return head_loss({ids, hidden, parameters_.head()}, {}, {.operand = options_.operand, .place = place()}, {},
                   workspace_);
}

LossResult TrainingGraph::loss_and_gradients(const at::Tensor& ids, const PrecisionScheme& scheme, std::uint64_t step,
                                             StepObserver* observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  Pass pass{scheme, step, observer, ids.size(0), ids.size(1), true};
  const at::Tensor last = forward(pass, ids);
  const at::Tensor hidden = workspace_.take("final hidden", last.sizes(), at::kFloat);
  const std::string final_norm(kFinalNormName);
  run().add_norm(last, {}, norm(final_norm), {}, hidden);

  const HeadGradients gradients{temporary(pass, "hidden gradient", spec().hidden), parameters_.of_head().gradient};
  gradients.head.zero_();
  const LossResult result = head_loss({ids, hidden, parameters_.head()}, {},
                                      {.operand = options_.operand, .place = place()}, gradients, workspace_);
  place().train->norm_weight_gradient(gradients.hidden, last, spec().norm_eps, parameters_.at(final_norm).gradient);
  const at::Tensor dx = workspace_.take("residual gradient", last.sizes(), at::kFloat).zero_();
  run().norm_backward(gradients.hidden, last, norm(final_norm), dx, {});
  if (observer != nullptr) observer->loss_gradient(dx);
  for (std::int64_t layer = spec().layers; layer-- > 0;) backward_layer(pass, layer, dx);

  const at::Tensor table = parameters_.at(std::string(kEmbeddingName)).gradient;
  if (!spec().tied_head) table.zero_();
  run().add_embedding_gradient(ids, dx, false, table);
  return result;
}

}  // namespace scalebits
