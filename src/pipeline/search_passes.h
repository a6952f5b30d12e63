// The passes of a search through the model: what the rounded matrices' gradients, the inputs and the losses are at a
// plan. A batch goes in micro-batches, each scored by itself and shared out over the processes, and what they find is
// added up in a fixed order: the same for any number of processes.
#pragma once

#include "distributed/process_group.h"
#include "graph/decoder.h"
#include "model/checkpoint.h"
#include "pipeline/recipe.h"
#include "sensitivity/search_model.h"
#include "sensitivity/sensitivity_table.h"

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <vector>

namespace scalebits {

/// What `recipe.loss` asks for on these windows; for KL the full-precision model runs over them.
LossTarget loss_target(const Checkpoint& checkpoint, const at::Tensor& windows, const Recipe& recipe);

/// Row and column sums of zero for every matrix.
std::vector<ChannelScores> no_channel_scores(const Partition& partition);

/// All windows are [count, length] int64 and the same in all processes, as are the results.
class SearchPasses {
 public:
  /// Keeps references to the arguments; `matrices` may change between two calls.
  SearchPasses(const Checkpoint& checkpoint, const Recipe& recipe, const RoundedMatrices& matrices,
               ProcessGroup& group);

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
  using Reduce = std::function<void(std::size_t matrix, const float* gradient, const MicroBatch& batch, Sums& own)>;
  std::int64_t count_of(const at::Tensor& windows) const;
  MicroBatch micro_batch(const at::Tensor& windows, std::int64_t index) const;
  /// sums[0] [1] f64 becomes the mean loss.
  void gradient_pass(const BitPlan& plan, GradientKind kind, const at::Tensor& windows, Sums& sums,
                     const Reduce& reduce);
  DecoderOptions decoder_options() const { return {.compute = recipe_.compute}; }

  const Checkpoint& checkpoint_;
  const Recipe& recipe_;
  const RoundedMatrices& matrices_;
  ProcessGroup& group_;
  SearchModel model_{checkpoint_, matrices_};
  Decoder decoder_{checkpoint_.spec, model_, decoder_options()};
  std::map<std::int64_t, LossTarget> validation_targets_;  // of this process's micro-batches
};

}  // namespace scalebits
