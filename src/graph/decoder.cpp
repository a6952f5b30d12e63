#include "graph/decoder.h"

#include "core/error.h"
#include "core/parallel.h"
#include "graph/decoder_passes.h"
#include "graph/denormals.h"
#include "graph/memory_budget.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

namespace scalebits {

Decoder::Decoder(const ModelSpec& spec, WeightSource& weights, const DecoderOptions& options)
    : passes_(new DecoderPasses{
          spec, weights, operand_type(options.compute), options.place,
          options.activation_budget_bytes ? options.activation_budget_bytes : half_of_own_memory_bytes(),
          options.pipeline, RopeTable(spec, options.place.device)}) {
  validate(spec, "decoder");
  at::set_num_threads(thread_count());
}

Decoder::~Decoder() = default;

const ModelSpec& Decoder::spec() const { return passes_->spec; }

at::Tensor Decoder::hidden(const at::Tensor& ids, PassObserver* observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  const auto plan = passes_->plan(ids, false);
  const at::Tensor last = passes_->forward(ids, plan, false, observer);
  return passes_->is_last() ? passes_->handed_out(plan, passes_->final_norm(plan, last)) : at::Tensor();
}

at::Tensor Decoder::logits(const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  DecoderPasses& s = *passes_;
  const at::Tensor states = hidden(ids).view({-1, s.spec.hidden}).to(s.place.device);
  const at::Tensor x = states.to(s.operand), head = s.weights.head().to(s.operand);
  const at::Tensor logits = at::empty({states.size(0), s.spec.vocab}, states.options());
  s.run().product_forward(x, head, logits);
  return logits.view({ids.size(0), ids.size(1), s.spec.vocab});
}

LossResult Decoder::loss(const at::Tensor& ids, const LossTarget& target) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  const auto plan = passes_->plan(ids, false);
  const at::Tensor last = passes_->forward(ids, plan, false, nullptr);
  return passes_->is_last() ? passes_->loss_of(ids, passes_->final_norm(plan, last), target, plan.staged)
                            : LossResult();
}

LossResult Decoder::loss_of_hidden(const at::Tensor& hidden, const at::Tensor& ids, const LossTarget& target) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  passes_->check(ids);
  SCALEBITS_ASSERT(hidden.numel() == ids.numel() * passes_->spec.hidden);
  const at::Tensor rows = hidden.view({ids.numel(), passes_->spec.hidden});
  return passes_->loss_of(ids, rows, target, false);
}

LossResult Decoder::loss_and_gradients(const at::Tensor& ids, const LossTarget& target, PassObserver& observer) {
  return finish(begin(ids, 0, 1, &observer), target, observer);
}

Decoder::Begun Decoder::begin(const at::Tensor& ids, std::int64_t number, std::int64_t all, PassObserver* observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  passes_->forward(ids, passes_->plan(ids, true, number, all), true, observer);
  return {ids, number, all};
}

LossResult Decoder::finish(const Begun& batch, const LossTarget& target, PassObserver& observer) {
  const at::NoGradGuard no_grad;
  const DenormalsAreZero fast_numbers;
  DecoderPasses& s = *passes_;
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
  DecoderPasses& passes;
  DecoderPasses::Plan plan;
  at::Tensor ids, x;
  std::int64_t layer = passes.own.first;
  bool entered = false;
  std::optional<InputSite> reached;  // in the present layer

  void run(PassObserver* observer, std::optional<InputSite> until) {
    const at::NoGradGuard no_grad;
    const DenormalsAreZero fast_numbers;
    SCALEBITS_ASSERT(layer < passes.own.last && (!until || reached < until));
    if (!entered) passes.enter(ids, plan, x);  // another stage may take its time
    entered = true;
    passes.run_layer(plan, layer, x, x, observer, !until && observer ? std::nullopt : reached, until);
    reached = until;
  }
};

Decoder::Walk::Walk(Decoder& decoder, const at::Tensor& ids) {
  DecoderPasses& passes = *decoder.passes_;
  const DecoderPasses::Plan plan = passes.plan(ids, false);
  progress_.reset(new Progress{passes, plan, ids, passes.layer_input(plan, passes.own.first)});
}

Decoder::Walk::~Walk() = default;

void Decoder::Walk::look(InputSite site, PassObserver& observer) { progress_->run(&observer, site); }

void Decoder::Walk::advance(PassObserver* observer) {
  Progress& p = *progress_;
  p.run(observer, {});
  if (++p.layer == p.passes.own.last) p.passes.send_to_next(p.x);
}

at::Tensor Decoder::Walk::hidden() {
  Progress& p = *progress_;
  SCALEBITS_ASSERT(p.layer == p.passes.own.last);
  if (!p.passes.is_last()) return {};
  const at::NoGradGuard no_grad;
  return p.passes.handed_out(p.plan, p.passes.final_norm(p.plan, p.x));
}

}  // namespace scalebits
