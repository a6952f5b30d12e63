#include "graph/decoder_passes.h"

#include "core/error.h"
#include "graph/batch_plan.h"
#include "graph/embedding.h"
#include "graph/memory_budget.h"
#include "graph/tensor_arithmetic.h"

#include <ATen/ops/mul.h>
#include <ATen/ops/sqrt.h>

namespace scalebits {
namespace {

using MicroBatch = DecoderPasses::MicroBatch;

std::vector<MicroBatch> cut(std::int64_t windows, std::int64_t at_most) {
  std::vector<MicroBatch> batches;
  const std::int64_t count = (windows + at_most - 1) / at_most;
  for (std::int64_t i = 0, first = 0; i < count; ++i) {
    const std::int64_t next = windows * (i + 1) / count;  // nearly equal parts
    batches.push_back({first, next - first});
    first = next;
  }
  return batches;
}

}  // namespace

void DecoderPasses::check(const at::Tensor& ids) const {
  if (ids.dim() != 2 || ids.scalar_type() != at::kLong || !ids.is_contiguous() || ids.numel() == 0)
    throw InternalError("ids must be a contiguous, non-empty [windows, length] int64 tensor");
  if (ids.size(1) > spec.max_positions)
    fail_input("a window of {} tokens is longer than the model's {} positions", ids.size(1), spec.max_positions);
  const auto* id = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    if (id[i] < 0 || id[i] >= spec.vocab) fail_input("token id {} is outside the vocabulary of {}", id[i], spec.vocab);
}

DecoderPasses::Plan DecoderPasses::plan(const at::Tensor& ids, bool backward, std::int64_t number, std::int64_t begun) {
  check(ids);
  Plan plan;
  plan.number = number;
  plan.windows = ids.size(0);
  plan.length = ids.size(1);
  rope.reserve(plan.length);
  ModelSpec here = spec;
  here.layers = own.count();
  const BatchPlan cuts =
      plan_batch(here, operand, {plan.windows, plan.length, backward, begun},
                 {budget_bytes, place.separate_memory ? half_of_own_memory_bytes() : std::uint64_t{0}});
  plan.keep_all = cuts.keep_all;
  plan.staged = cuts.staged;
  plan.batches = cut(plan.windows, cuts.windows_at_once);
  return plan;
}

at::Tensor DecoderPasses::rows_of(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch) {
  return tensor.narrow(0, batch.first_window * plan.length, batch.windows * plan.length);
}

LayerActivations DecoderPasses::activations(const Plan& plan, std::int64_t layer, const MicroBatch& batch,
                                            const at::Tensor& x) {
  // Kept activations hold the whole batch and are cut; others live only as long as their micro-batch.
  const std::int64_t held = plan.keep_all ? plan.windows : batch.windows;
  const auto take = [&](const char* name, at::IntArrayRef shape, at::ScalarType type) {
    const std::string kept = plan.keep_all ? fmt::format("{} {}, {}", name, layer, plan.number) : name;
    const at::Tensor whole = workspace.take(kept, shape, type);
    if (!plan.keep_all) return whole;
    const std::int64_t per_window = whole.size(0) / held;
    return whole.narrow(0, batch.first_window * per_window, batch.windows * per_window);
  };
  const std::int64_t n = held * plan.length, q = spec.heads * spec.head_dim, kv = spec.kv_heads * spec.head_dim;
  LayerActivations a;
  a.x = x;
  a.middle = take("middle", {n, spec.hidden}, at::kFloat);
  a.q = take("q", {n, q}, operand);
  a.k = take("k", {n, kv}, operand);
  a.v = take("v", {n, kv}, operand);
  if (spec.qk_norm) {
    a.raw_q = take("raw q", {n, q}, operand);
    a.raw_k = take("raw k", {n, kv}, operand);
  }
  a.attended = take("attended", {n, q}, operand);
  a.log_sums = take("log sums", {held, spec.heads, plan.length}, at::kFloat);
  if (has_gate(spec)) a.gate = take("gate", {n, spec.intermediate}, operand);
  a.up = take("up", {n, spec.intermediate}, operand);
  return a;
}

void DecoderPasses::embed(const at::Tensor& ids, const Plan& plan, const at::Tensor& x) {
  const at::Tensor positions = fetch_positions(spec, weights);
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor rows = room(plan, x, batch, "layer input");
    scalebits::embed(weights, positions, ids.narrow(0, batch.first_window, batch.windows), 0, rows, run().add);
    store(plan, rows, x, batch);
  }
}

void DecoderPasses::add_embedding_gradients(const at::Tensor& ids, const Plan& plan, const at::Tensor& dx, bool squared,
                                            const at::Tensor& table) {
  for (const MicroBatch& batch : plan.batches)
    run().add_embedding_gradient(ids.narrow(0, batch.first_window, batch.windows),
                                 fetched(plan, dx, batch, "layer gradient"), squared, table);
}

void DecoderPasses::send(const at::Tensor& tensor, int stage) {
  if (tensor.is_cpu()) return pipeline->send(tensor, stage);
  pipeline->send(host_workspace.take("handed on", tensor.sizes(), tensor.scalar_type()).copy_(tensor), stage);
}

void DecoderPasses::receive(const at::Tensor& tensor, int stage) {
  if (tensor.is_cpu()) return pipeline->receive(tensor, stage);
  const at::Tensor here = host_workspace.take("handed on", tensor.sizes(), tensor.scalar_type());
  pipeline->receive(here, stage);
  tensor.copy_(here);
}

/// Returns the output of the last layer that is here, before the final norm.
at::Tensor DecoderPasses::forward(const at::Tensor& ids, const Plan& plan, bool backward_follows,
                                  PassObserver* observer) {
  at::Tensor x = layer_input(plan, own.first);
  enter(ids, plan, x);
  for (std::int64_t layer = own.first; layer < own.last; ++layer) {
    const at::Tensor y = backward_follows ? layer_input(plan, layer + 1) : x;
    run_layer(plan, layer, x, y, observer);
    x = y;
  }
  send_to_next(x);
  return x;
}

/// x → y [tokens, hidden]; y may be x unless the plan keeps activations. With `until` as far as that site's input,
/// which is all that the observer sees; the next run may then go on `from` there.
void DecoderPasses::run_layer(const Plan& plan, std::int64_t layer, const at::Tensor& x, const at::Tensor& y,
                              PassObserver* observer, std::optional<InputSite> from, std::optional<InputSite> until) {
  const LayerWeights layer_weights = fetch_layer(spec, weights, layer, operand, workspace, run());
  std::function<void(InputSite, const at::Tensor&)> observe;
  if (observer && observer->wants_linear_inputs())
    observe = [&](InputSite site, const at::Tensor& input) {
      if (until && until != site) return;
      // On another device an observer's work is temporaries, too, so it sees a piece at a time.
      const std::int64_t piece = place.separate_memory ? kTensorPiece : input.numel();
      for_row_pieces(input.size(0), input.size(1), piece, [&](std::int64_t first, std::int64_t count) {
        at::Tensor rows = input.narrow(0, first, count);
        if (operand != at::kFloat) {
          const at::Tensor exact = workspace.take("observed input", rows.sizes(), at::kFloat);
          run().convert(rows, exact);
          rows = exact;
        }
        observer->linear_input(layer, site, rows);
      });
    };
  if (plan.batches.size() > 1) from.reset();  // what was there is the last one's
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor input = fetched(plan, x, batch, "layer input"), output = room(plan, y, batch, "layer output");
    layer_forward(context(plan, batch), layer_weights, activations(plan, layer, batch, input), output, observe, from,
                  until);
    if (!until) store(plan, output, y, batch);
  }
}

at::Tensor DecoderPasses::final_norm(const Plan& plan, const at::Tensor& x) {
  const at::Tensor hidden = spanning(plan, "final hidden", at::kFloat);
  const Norm norm = fetch_norm(spec, weights, std::string(kFinalNormName));
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor output = room(plan, hidden, batch, "layer output");
    run().add_norm(fetched(plan, x, batch, "layer input"), {}, norm, {}, output);
    store(plan, output, hidden, batch);
  }
  return hidden;
}

/// dx [tokens, hidden] f32, overwritten.
void DecoderPasses::final_norm_backward(const Plan& plan, const at::Tensor& d_hidden, const at::Tensor& x,
                                        const at::Tensor& dx) {
  const Norm norm = fetch_norm(spec, weights, std::string(kFinalNormName));
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor rows = room(plan, dx, batch, "layer gradient").zero_();
    run().norm_backward(fetched(plan, d_hidden, batch, "hidden rows"), fetched(plan, x, batch, "layer input"), norm,
                        rows, {});
    store(plan, rows, dx, batch);
  }
}

LossResult DecoderPasses::loss_of(const at::Tensor& ids, const at::Tensor& rows, const LossTarget& target, bool staged,
                                  bool squared, const HeadGradients& gradients) {
  return head_loss({ids, rows, weights.head()}, target,
                   {.squared_head_gradient = squared, .operand = operand, .place = place, .staged = staged}, gradients,
                   workspace);
}

at::Tensor DecoderPasses::squared(const at::Tensor& x, const char* buffer) {
  at::Tensor squares = workspace.take(buffer, x.sizes(), operand);
  return at::mul_out(squares, x, x);
}

/// dx: d(output of the last layer here) in, d(input of the first layer here) out.
void DecoderPasses::backward(const Plan& plan, const at::Tensor& dx, PassObserver& observer) {
  for (std::int64_t layer = own.last; layer-- > own.first;) {
    const LayerWeights layer_weights = fetch_layer(spec, weights, layer, operand, workspace, run());
    const at::Tensor x = layer_input(plan, layer);
    for (std::size_t i = 0; i < plan.batches.size(); ++i) {
      const MicroBatch& batch = plan.batches[i];
      const bool last = i + 1 == plan.batches.size();
      const LayerActivations a = activations(plan, layer, batch, fetched(plan, x, batch, "layer input"));
      if (!plan.keep_all) {
        // The output is known already; this run only brings back what lies between.
        const at::Tensor unused = workspace.take("layer output", a.x.sizes(), at::kFloat);
        layer_forward(context(plan, batch), layer_weights, a, unused, {});
      }
      std::function<void(LinearKind, const at::Tensor&, const at::Tensor&)> take;
      if (observer.wants_linear_gradients())
        take = [&](LinearKind kind, const at::Tensor& dy, const at::Tensor& input) {
          const auto [rows, cols] = linear_shape(spec, kind);
          // In one batch a gradient is done with when the next one is made; another device has counted all of a
          // layer's, and has no room for both kinds of buffers.
          const bool shared = plan.batches.size() == 1 && !place.separate_memory;
          const std::string name = shared ? "gradient" : fmt::format("gradient {}", static_cast<int>(kind));
          const at::Tensor gradient = workspace.take(name, {rows, cols}, at::kFloat);
          if (observer.gradient_kind() == GradientKind::mean) {
            run().product_weight_gradient(dy, input, gradient, i > 0);
          } else {
            // Σ_t (dy_t x_t^T)² is a product, too.
            run().product_weight_gradient(squared(dy, "squared output gradient"), squared(input, "squared input"),
                                          gradient, i > 0);
            if (last) gradient.sqrt_();
          }
          if (last) observer.linear_gradient(layer, kind, gradient);
        };
      const at::Tensor rows = fetched(plan, dx, batch, "layer gradient");
      layer_backward(context(plan, batch), layer_weights, a, rows, take);
      store(plan, rows, dx, batch);
    }
  }
}

}  // namespace scalebits
