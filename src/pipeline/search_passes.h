// The passes of a search through the model: what the rounded matrices' gradients, the inputs and the losses are at a
// plan. A batch goes in micro-batches, each scored by itself and shared out over the replicas, and what they find is
// added up in a fixed order: the same for any number of processes. What concerns a matrix is found by the stage that
// has it, and told to the others.
#pragma once

#include "graph/decoder.h"
#include "model/checkpoint.h"
#include "pipeline/job_processes.h"
#include "pipeline/recipe.h"
#include "pipeline/search_device.h"
#include "sensitivity/search_model.h"
#include "sensitivity/sensitivity_table.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <vector>

namespace scalebits {

/// What `kind` asks for on these windows; for KL the full-precision model runs over them: `decoder`, which asks
/// `reference` for its weights. Of a pipeline's stages only the last one's is filled.
LossTarget loss_target(LossTarget::Kind kind, const at::Tensor& windows, Decoder& decoder, WeightSource& reference);

/// Row and column sums of zero for every matrix.
std::vector<ChannelScores> no_channel_scores(const Partition& partition);

/// All windows are [count, length] int64 and the same in all processes, as are the results.
class SearchPasses {
 public:
  /// Keeps references to the arguments; `matrices` may change between two calls.
  SearchPasses(const Checkpoint& checkpoint, const Recipe& recipe, const RoundedMatrices& matrices,
               JobProcesses& processes, const SearchDevice& device = {});

  /// Scores of every block at `plan`, in nats per token for the Fisher statistic, and the mean loss.
  double score_blocks(const BitPlan& plan, const at::Tensor& windows, SensitivityTable& table);
  /// Sums over the channels of every matrix at `bits` throughout, the model being at `plan`, and the mean loss.
  double score_channels(const BitPlan& plan, const at::Tensor& windows, int bits, std::vector<ChannelScores>& channels);
  /// Mean squares of the inputs of each matrix of `partition` that is a linear layer, in the full-precision model;
  /// empty for others.
  std::vector<std::vector<float>> input_moments(const Partition& partition, const at::Tensor& windows);
  /// Mean loss at `plan`. For KL the reference's part is kept: the windows must be the same at each call.
  double validation_loss(const BitPlan& plan, const at::Tensor& windows);

 private:
  struct MicroBatch {
    at::Tensor windows;
    double share;  // of all windows
  };
  using Sums = std::vector<at::Tensor>;
  using Reduce =
      std::function<void(std::size_t matrix, const at::Tensor& gradient, const MicroBatch& batch, Sums& own)>;
  /// A micro-batch whose forward pass is made.
  struct Begun {
    LossTarget target;
    Decoder::Begun pass;
  };
  std::int64_t count_of(const at::Tensor& windows) const;
  MicroBatch micro_batch(const at::Tensor& windows, std::int64_t index) const;
  /// Those that this replica works at, with a pipeline: its stages begin them all one after the other, and so work side
  /// by side. Without one none, since a batch that is begun takes memory.
  std::map<std::int64_t, Begun> begin_own(const at::Tensor& windows, const BitPlan& plan);
  /// Whether this process's stage is the one that finds it.
  bool has_matrix(std::size_t matrix) const { return owns_matrix(checkpoint_.spec, processes_.pipeline(), matrix); }
  bool has_loss() const { return !processes_.pipeline() || processes_.pipeline()->is_last(); }
  /// After the sum over micro-batches: numbers of `counts` each, of the loss if `matrices_from` is 1, then of matrices.
  /// Those that this stage has not found are empty before.
  void share(Sums& sums, const std::vector<std::int64_t>& counts, std::size_t matrices_from);
  /// sums[0] [1] f64 becomes the mean loss.
  void gradient_pass(const BitPlan& plan, GradientKind kind, const at::Tensor& windows, Sums& sums,
                     const Reduce& reduce);
  /// At the full-precision model; the model is at `plan` afterwards.
  LossTarget target_of(const at::Tensor& windows, const BitPlan& plan);

  const Checkpoint& checkpoint_;
  const Recipe& recipe_;
  const RoundedMatrices& matrices_;
  JobProcesses& processes_;
  SearchEngine engine_;
  ScoredModel& model_ = *engine_.model;
  Decoder decoder_{checkpoint_.spec, model_, engine_.decoder};  // runs the full-precision model, too
  std::map<std::int64_t, LossTarget> validation_targets_;       // of this process's micro-batches
};

}  // namespace scalebits
