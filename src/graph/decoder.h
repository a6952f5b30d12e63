// The Llama-family decoder as a differentiable function of its linear layers. Forward and backward are written out by
// hand: a linear keeps no gradient, its input is remade or kept, its weight is asked for again, and the gradient
// dy^T x of the whole batch goes to the observer and is dropped. Peak memory is the activations (bounded by a
// budget; beyond it layers keep only their inputs and run again in micro-batches of windows) plus one layer's weights
// and gradients, plus the logits of a few hundred tokens.
#pragma once

#include "graph/arithmetic.h"
#include "graph/loss.h"
#include "graph/observer.h"
#include "graph/pipeline_stage.h"
#include "graph/weight_source.h"
#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace scalebits {

enum class Compute {
  f32,
  bf16  // operands of the linear layers' and the head's products are rounded to bf16; sums and results stay f32
};

/// Of what these products multiply.
constexpr at::ScalarType operand_type(Compute compute) { return compute == Compute::f32 ? at::kFloat : at::kBFloat16; }

struct DecoderOptions {
  Compute compute = Compute::f32;
  std::uint64_t activation_budget_bytes = 0;  // at the place; 0: half of the host memory that is ours
  ComputePlace place = {};
  PipelineStage* pipeline = nullptr;  // null: all layers are here
};

struct DecoderPasses;

/// With a pipeline all its stages call the same methods with the same arguments at the same time; each asks its weights
/// for its own layers alone, its observers see those alone, and what comes of the head is the last stage's: others get
/// undefined tensors, and losses of 0.
class Decoder {
 public:
  /// Keeps a reference to `weights`, which must outlive the decoder. Uses thread_count() threads; results are the same
  /// for the same number of threads. Not to be called from two threads at once.
  Decoder(const ModelSpec& spec, WeightSource& weights, const DecoderOptions& options = {});
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const ModelSpec& spec() const;

  /// ids [windows, length] int64 → [windows, length, hidden] f32 after the final norm. Throws Error(bad_input) when an
  /// id is outside the vocabulary or a window longer than the model's positions. ids lie in host memory, here and
  /// below; so does the result.
  at::Tensor hidden(const at::Tensor& ids, PassObserver* observer = nullptr);
  /// [windows, length, vocab] f32, all held at once: for tests and short inputs.
  at::Tensor logits(const at::Tensor& ids);
  LossResult loss(const at::Tensor& ids, const LossTarget& target);
  /// The same from what hidden(ids) gave, so that one forward pass serves several measures.
  LossResult loss_of_hidden(const at::Tensor& hidden, const at::Tensor& ids, const LossTarget& target);
  /// The loss is the mean over all scored tokens of the batch; the observer is handed its gradients. Throws
  /// Error(bad_input) when the loss is not finite.
  LossResult loss_and_gradients(const at::Tensor& ids, const LossTarget& target, PassObserver& observer);

  /// The same in two parts, between which other batches may be begun: stages of a pipeline then work side by side.
  struct Begun {
    at::Tensor ids;
    std::int64_t number = 0, all = 1;
  };
  /// Batch `number` of `all` that are begun before the first one is finished, equally long and of nearly as many
  /// windows; `observer` (may be null) sees linear inputs.
  Begun begin(const at::Tensor& ids, std::int64_t number = 0, std::int64_t all = 1, PassObserver* observer = nullptr);
  /// Each once; the weights are still the same, and no other pass was made since the first one was begun.
  LossResult finish(const Begun& batch, const LossTarget& target, PassObserver& observer);

  /// A forward pass that stops before each layer, for who changes the layer's weights on the way.
  class Walk {
   public:
    /// Before layer 0, or a stage's first. One walk at a time and decoder, and no other pass meanwhile; ids as for
    /// hidden().
    Walk(Decoder& decoder, const at::Tensor& ids);
    ~Walk();
    /// Runs the present layer with its weights as they are now as far as the input of `site`, which `observer` is
    /// handed. Sites ascending: what an earlier look has made counts as it is. No step.
    void look(InputSite site, PassObserver& observer);
    /// Runs it to its end and steps behind it; with an observer (may be null) from its beginning.
    void advance(PassObserver* observer = nullptr);
    /// After the last layer, or a stage's: [windows, length, hidden] f32 after the final norm.
    at::Tensor hidden();

   private:
    struct Progress;
    std::unique_ptr<Progress> progress_;
  };

 private:
  std::unique_ptr<DecoderPasses> passes_;
};

}  // namespace scalebits
