#include "graph/decoder.h"

#include "core/error.h"
#include "core/parallel.h"
#include "graph/batch_plan.h"
#include "graph/denormals.h"
#include "graph/embedding.h"
#include "graph/head_loss.h"
#include "graph/layer.h"
#include "graph/memory_budget.h"
#include "graph/tensor_arithmetic.h"
#include "graph/workspace.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sqrt.h>

#include <vector>

namespace scalebits {
namespace {

/// Consecutive windows that run through a layer together.
struct MicroBatch {
  std::int64_t first_window, windows;
};

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

struct Decoder::State {
  ModelSpec spec;
  WeightSource& weights;
  at::ScalarType operand;
  ComputePlace place;
  std::uint64_t budget_bytes;
  PipelineStage* pipeline;
  RopeTable rope;
  LayerRange own = own_layers(spec, pipeline);
  Workspace workspace{place.device}, host_workspace{at::kCPU};

  /// What a pass over one batch keeps and how it is cut.
  struct Plan {
    std::int64_t windows = 0, length = 0;
    std::int64_t number = 0;  // of the batch among those begun together
    bool keep_all = false;    // every layer's activations are kept; else only layer inputs, and layers run again
    bool staged = false;      // what spans the whole batch lies in host memory; a micro-batch's rows are brought over
    std::vector<MicroBatch> batches;
    std::int64_t tokens() const { return windows * length; }
  };

  Plan plan(const at::Tensor& ids, bool backward, std::int64_t number = 0, std::int64_t begun = 1);
  LayerActivations activations(const Plan& plan, std::int64_t layer, const MicroBatch& batch, const at::Tensor& x);
  const Arithmetic& run() const { return *place.arithmetic; }
  static at::Tensor rows_of(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch);
  /// A tensor [tokens, width] that spans the whole batch.
  at::Tensor spanning(const Plan& plan, const std::string& name, at::ScalarType type) {
    return (plan.staged ? host_workspace : workspace).take(name, {plan.tokens(), spec.hidden}, type);
  }
  /// Room for a micro-batch's rows of a spanning tensor at the place: the rows themselves, unless they lie in host
  /// memory. fetched() has them filled; store() puts them back.
  at::Tensor room(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch, const char* buffer) {
    const at::Tensor rows = rows_of(plan, tensor, batch);
    return plan.staged ? workspace.take(buffer, rows.sizes(), rows.scalar_type()) : rows;
  }
  at::Tensor fetched(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch, const char* buffer) {
    const at::Tensor rows = room(plan, tensor, batch, buffer);
    return plan.staged ? rows.copy_(rows_of(plan, tensor, batch)) : rows;
  }
  static void store(const Plan& plan, const at::Tensor& rows, const at::Tensor& tensor, const MicroBatch& batch) {
    if (plan.staged) rows_of(plan, tensor, batch).copy_(rows);
  }
  LayerContext context(const Plan& plan, const MicroBatch& batch) {
    return {spec, rope, workspace, operand, batch.windows, plan.length, 0, run().attend, run()};
  }
  void embed(const at::Tensor& ids, const Plan& plan, const at::Tensor& x);
  bool is_first() const { return !pipeline || pipeline->is_first(); }
  bool is_last() const { return !pipeline || pipeline->is_last(); }
  /// A tensor that spans the batch, to and from another stage.
  void send(const at::Tensor& tensor, int stage);
  void receive(const at::Tensor& tensor, int stage);
  void send_to_next(const at::Tensor& x) {
    if (!is_last()) send(x, pipeline->index() + 1);
  }
  /// Fills the input of the first layer that is here: from the tokens, or from the stage before.
  void enter(const at::Tensor& ids, const Plan& plan, const at::Tensor& x) {
    is_first() ? embed(ids, plan, x) : receive(x, pipeline->index() - 1);
  }
  void add_embedding_gradients(const at::Tensor& ids, const Plan& plan, const at::Tensor& dx, bool squared,
                               const at::Tensor& table);
  /// A copy in host memory of a tensor that spans the batch, [windows, length, hidden].
  at::Tensor handed_out(const Plan& plan, const at::Tensor& rows) const {
    return rows.view({plan.windows, plan.length, spec.hidden}).to(at::kCPU, rows.scalar_type(), false, /*copy=*/true);
  }
  LossResult loss_of(const at::Tensor& ids, const at::Tensor& rows, const LossTarget& target, bool staged,
                     bool squared = false, const HeadGradients& gradients = {});
  at::Tensor forward(const at::Tensor& ids, const Plan& plan, bool backward_follows, PassObserver* observer);
  void run_layer(const Plan& plan, std::int64_t layer, const at::Tensor& x, const at::Tensor& y,
                 PassObserver* observer);
  at::Tensor layer_input(const Plan& plan, std::int64_t layer) {
    return spanning(plan, fmt::format("input of layer {}, {}", layer, plan.number), at::kFloat);
  }
  at::Tensor squared(const at::Tensor& x, const char* buffer) {
    at::Tensor squares = workspace.take(buffer, x.sizes(), operand);
    return at::mul_out(squares, x, x);
  }
  void backward(const Plan& plan, const at::Tensor& dx, PassObserver& observer);
  at::Tensor final_norm(const Plan& plan, const at::Tensor& x);
  void final_norm_backward(const Plan& plan, const at::Tensor& d_hidden, const at::Tensor& x, const at::Tensor& dx);
  void check(const at::Tensor& ids) const;
};

void Decoder::State::check(const at::Tensor& ids) const {
  if (ids.dim() != 2 || ids.scalar_type() != at::kLong || !ids.is_contiguous() || ids.numel() == 0)
    throw InternalError("ids must be a contiguous, non-empty [windows, length] int64 tensor");
  if (ids.size(1) > spec.max_positions)
    fail_input("a window of {} tokens is longer than the model's {} positions", ids.size(1), spec.max_positions);
  const auto* id = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    if (id[i] < 0 || id[i] >= spec.vocab) fail_input("token id {} is outside the vocabulary of {}", id[i], spec.vocab);
}

Decoder::State::Plan Decoder::State::plan(const at::Tensor& ids, bool backward, std::int64_t number,
                                          std::int64_t begun) {
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
                 {budget_bytes, place.separate_memory ? half_of_physical_memory_bytes() : std::uint64_t{0}});
  plan.keep_all = cuts.keep_all;
  plan.staged = cuts.staged;
  plan.batches = cut(plan.windows, cuts.windows_at_once);
  return plan;
}

at::Tensor Decoder::State::rows_of(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch) {
  return tensor.narrow(0, batch.first_window * plan.length, batch.windows * plan.length);
}

LayerActivations Decoder::State::activations(const Plan& plan, std::int64_t layer, const MicroBatch& batch,
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

void Decoder::State::embed(const at::Tensor& ids, const Plan& plan, const at::Tensor& x) {
  const at::Tensor positions = fetch_positions(spec, weights);
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor rows = room(plan, x, batch, "layer input");
    scalebits::embed(weights, positions, ids.narrow(0, batch.first_window, batch.windows), 0, rows, run().add);
    store(plan, rows, x, batch);
  }
}

void Decoder::State::add_embedding_gradients(const at::Tensor& ids, const Plan& plan, const at::Tensor& dx,
                                             bool squared, const at::Tensor& table) {
  for (const MicroBatch& batch : plan.batches)
    run().add_embedding_gradient(ids.narrow(0, batch.first_window, batch.windows),
                                 fetched(plan, dx, batch, "layer gradient"), squared, table);
}

void Decoder::State::send(const at::Tensor& tensor, int stage) {
  if (tensor.is_cpu()) return pipeline->send(tensor, stage);
  pipeline->send(host_workspace.take("handed on", tensor.sizes(), tensor.scalar_type()).copy_(tensor), stage);
}

void Decoder::State::receive(const at::Tensor& tensor, int stage) {
  if (tensor.is_cpu()) return pipeline->receive(tensor, stage);
  const at::Tensor here = host_workspace.take("handed on", tensor.sizes(), tensor.scalar_type());
  pipeline->receive(here, stage);
  tensor.copy_(here);
}

/// Returns the output of the last layer that is here, before the final norm.
at::Tensor Decoder::State::forward(const at::Tensor& ids, const Plan& plan, bool backward_follows,
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

/// x → y [tokens, hidden]; y may be x unless the plan keeps activations.
void Decoder::State::run_layer(const Plan& plan, std::int64_t layer, const at::Tensor& x, const at::Tensor& y,
                               PassObserver* observer) {
  const LayerWeights layer_weights = fetch_layer(spec, weights, layer, operand, workspace, run());
  std::function<void(InputSite, const at::Tensor&)> observe;
  if (observer && observer->wants_linear_inputs())
    observe = [&](InputSite site, const at::Tensor& input) {
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
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor input = fetched(plan, x, batch, "layer input"), output = room(plan, y, batch, "layer output");
    layer_forward(context(plan, batch), layer_weights, activations(plan, layer, batch, input), output, observe);
    store(plan, output, y, batch);
  }
}

at::Tensor Decoder::State::final_norm(const Plan& plan, const at::Tensor& x) {
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
void Decoder::State::final_norm_backward(const Plan& plan, const at::Tensor& d_hidden, const at::Tensor& x,
                                         const at::Tensor& dx) {
  const Norm norm = fetch_norm(spec, weights, std::string(kFinalNormName));
  for (const MicroBatch& batch : plan.batches) {
    const at::Tensor rows = room(plan, dx, batch, "layer gradient").zero_();
    run().norm_backward(fetched(plan, d_hidden, batch, "hidden rows"), fetched(plan, x, batch, "layer input"), norm,
                        rows, {});
    store(plan, rows, dx, batch);
  }
}

LossResult Decoder::State::loss_of(const at::Tensor& ids, const at::Tensor& rows, const LossTarget& target, bool staged,
                                   bool squared, const HeadGradients& gradients) {
  return head_loss({ids, rows, weights.head()}, target,
                   {.squared_head_gradient = squared, .operand = operand, .place = place, .staged = staged}, gradients,
                   workspace);
}

/// dx: d(output of the last layer here) in, d(input of the first layer here) out.
void Decoder::State::backward(const Plan& plan, const at::Tensor& dx, PassObserver& observer) {
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

Decoder::Decoder(const ModelSpec& spec, WeightSource& weights, const DecoderOptions& options)
    : state_(
          new State{spec, weights, options.compute == Compute::f32 ? at::kFloat : at::kBFloat16, options.place,
                    options.activation_budget_bytes ? options.activation_budget_bytes : half_of_physical_memory_bytes(),
                    options.pipeline, RopeTable(spec, options.place.device)}) {
  validate(spec, "decoder");
  at::set_num_threads(thread_count());
}

Decoder::~Decoder() = default;

const ModelSpec& Decoder::spec() const { return state_->spec; }

at::Tensor Decoder::hidden(const at::Tensor& ids, PassObserver* observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  const auto plan = state_->plan(ids, false);
  const at::Tensor last = state_->forward(ids, plan, false, observer);
  return state_->is_last() ? state_->handed_out(plan, state_->final_norm(plan, last)) : at::Tensor();
}

at::Tensor Decoder::logits(const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  State& s = *state_;
  const at::Tensor states = hidden(ids).view({-1, s.spec.hidden}).to(s.place.device);
  const at::Tensor x = states.to(s.operand), head = s.weights.head().to(s.operand);
  const at::Tensor logits = at::empty({states.size(0), s.spec.vocab}, states.options());
  s.run().product_forward(x, head, logits);
  return logits.view({ids.size(0), ids.size(1), s.spec.vocab});
}

LossResult Decoder::loss(const at::Tensor& ids, const LossTarget& target) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  const auto plan = state_->plan(ids, false);
  const at::Tensor last = state_->forward(ids, plan, false, nullptr);
  return state_->is_last() ? state_->loss_of(ids, state_->final_norm(plan, last), target, plan.staged) : LossResult();
}

LossResult Decoder::loss_of_hidden(const at::Tensor& hidden, const at::Tensor& ids, const LossTarget& target) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  state_->check(ids);
  SCALEBITS_ASSERT(hidden.numel() == ids.numel() * state_->spec.hidden);
  const at::Tensor rows = hidden.view({ids.numel(), state_->spec.hidden});
  return state_->loss_of(ids, rows, target, false);
}

LossResult Decoder::loss_and_gradients(const at::Tensor& ids, const LossTarget& target, PassObserver& observer) {
  return finish(begin(ids, 0, 1, &observer), target, observer);
}

Decoder::Begun Decoder::begin(const at::Tensor& ids, std::int64_t number, std::int64_t all, PassObserver* observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  state_->forward(ids, state_->plan(ids, true, number, all), true, observer);
  return {ids, number, all};
}

LossResult Decoder::finish(const Begun& batch, const LossTarget& target, PassObserver& observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  State& s = *state_;
  const auto plan = s.plan(batch.ids, true, batch.number, batch.all);
  const bool wants_embedding = observer.wants_embedding_gradient(),
             squares = observer.gradient_kind() == GradientKind::tokens;
  const int stages = s.pipeline ? s.pipeline->count() : 1, stage = s.pipeline ? s.pipeline->index() : 0;
  // Who is handed the look-up's gradient: the stage that has the head's when they are one.
  const bool has_table = s.spec.tied_head ? s.is_last() : s.is_first();
  HeadGradients gradients;
  if (wants_embedding && (has_table || s.is_last()))
    gradients.head = s.workspace.take("head gradient", {s.spec.vocab, s.spec.hidden}, at::kFloat).zero_();
  const at::Tensor dx = s.spanning(plan, "residual gradient", at::kFloat);
  LossResult result;
  if (s.is_last()) {
    gradients.hidden = s.spanning(plan, "hidden gradient", s.operand);
    const at::Tensor last = s.layer_input(plan, s.own.last);
    result = s.loss_of(batch.ids, s.final_norm(plan, last), target, plan.staged, squares, gradients);
    if (wants_embedding && !s.spec.tied_head) observer.head_gradient(squares ? gradients.head.sqrt_() : gradients.head);
    s.final_norm_backward(plan, gradients.hidden, last, dx);
  } else {
    s.receive(dx, stage + 1);
  }
  s.backward(plan, dx, observer);
  if (!s.is_first()) s.send(dx, stage - 1);
  if (!wants_embedding) return result;
  if (stages > 1 && s.spec.tied_head) {
    if (s.is_first()) s.send(dx, stages - 1);
    if (s.is_last()) s.receive(dx, 0);
  }
  if (!has_table) return result;
  if (!s.spec.tied_head) gradients.head.zero_();
  s.add_embedding_gradients(batch.ids, plan, dx, squares, gradients.head);
  observer.embedding_gradient(squares ? gradients.head.sqrt_() : gradients.head);
  return result;
}

struct Decoder::Walk::Progress {
  Decoder::State& state;
  Decoder::State::Plan plan;
  at::Tensor ids, x;
  std::int64_t layer = state.own.first;
  bool entered = false;

  void run(const at::Tensor& y, PassObserver* observer) {
    const at::NoGradGuard no_grad;
    const DenormalsAreZero fast_numbers;
    SCALEBITS_ASSERT(layer < state.own.last);
    if (!entered) state.enter(ids, plan, x);  // another stage may take its time
    entered = true;
    state.run_layer(plan, layer, x, y, observer);
  }
};

Decoder::Walk::Walk(Decoder& decoder, const at::Tensor& ids) {
  State& state = *decoder.state_;
  const State::Plan plan = state.plan(ids, false);
  progress_.reset(new Progress{state, plan, ids, state.layer_input(plan, state.own.first)});
}

Decoder::Walk::~Walk() = default;

void Decoder::Walk::look(PassObserver& observer) {
  Progress& p = *progress_;
  p.run(p.state.layer_input(p.plan, p.state.own.first + 1), &observer);
}

void Decoder::Walk::advance(PassObserver* observer) {
  Progress& p = *progress_;
  p.run(p.x, observer);
  if (++p.layer == p.state.own.last) p.state.send_to_next(p.x);
}

at::Tensor Decoder::Walk::hidden() {
  Progress& p = *progress_;
  SCALEBITS_ASSERT(p.layer == p.state.own.last);
  if (!p.state.is_last()) return {};
  const at::NoGradGuard no_grad;
  return p.state.handed_out(p.plan, p.state.final_norm(p.plan, p.x));
}

}  // namespace scalebits
