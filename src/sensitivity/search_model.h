// The model that the search looks at: the checkpoint with some matrices replaced by their rounding at the current
// widths. It gives the decoder its weights; each gradient is reduced to scores the moment it arrives. Matrices that are
// not rounded stay the checkpoint's own. Here for host memory, in device_search_model.h for tensors of any device.
#pragma once

#include "graph/observer.h"
#include "graph/weight_source.h"
#include "graph/workspace.h"
#include "rounding/bit_plan.h"
#include "rounding/rounded_matrix.h"
#include "sensitivity/sensitivity_table.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace scalebits {

/// What a search asks of it, wherever it lies. Gradients lie there, too: [rows, cols] f32, in original order.
class ScoredModel : public WeightSource {
 public:
  /// The widths from now on; `plan` must live, unchanged, until the next call of this or of use_full_precision(). One
  /// of both is wanted before the first tensor.
  virtual void use(const BitPlan& plan) = 0;
  /// Every matrix as the checkpoint has it from now on.
  virtual void use_full_precision() = 0;
  /// As score_blocks() and score_channels() of block_scores.h, for matrix `matrix` of the partition.
  virtual std::vector<WidthScores> score_blocks(std::size_t matrix, const at::Tensor& gradient,
                                                Statistic statistic) = 0;
  virtual ChannelScores score_channels(std::size_t matrix, const at::Tensor& gradient, Statistic statistic,
                                       int bits) = 0;
};

class SearchModel : public ScoredModel {
 public:
  /// Keeps references to the arguments. One serves all passes of a search, so that its memory is touched for the first
  /// time only once: a linear's tensor is overwritten when the same linear of another layer is asked for.
  SearchModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices);
  void use(const BitPlan& plan) override;
  void use_full_precision() override;
  std::vector<WidthScores> score_blocks(std::size_t matrix, const at::Tensor& gradient, Statistic statistic) override;
  ChannelScores score_channels(std::size_t matrix, const at::Tensor& gradient, Statistic statistic, int bits) override;
  at::Tensor linear(std::int64_t layer, LinearKind kind) override;
  at::Tensor embedding() override;
  void embed(const at::Tensor& ids, const at::Tensor& rows) override;
  at::Tensor head() override;
  at::Tensor vector(const std::string& name) override { return unrounded_.vector(name); }

 protected:
  /// Rounded matrix `index` as a pass sees it, [rows, cols] in original order: to nearest, unless a subclass knows
  /// better.
  virtual void dequantize(std::size_t index, float* out);
  const RoundedMatrix& matrix(std::size_t index) const { return *matrices_[index]; }

 private:
  /// Null when matrix `index` is not rounded, or nothing is.
  const RoundedMatrix* rounded(std::size_t index) const;
  at::Tensor dequantized(std::size_t index, const std::string& buffer);
  CheckpointWeights unrounded_;
  const RoundedMatrices& matrices_;
  const BitPlan* plan_ = nullptr;  // null: full precision
  const ModelSpec& spec_;
  std::size_t linears_;
  Workspace workspace_;
  at::Tensor embedding_, head_;  // rounded once: look-up, head and their backward all ask for them
};

/// Hands each gradient of a rounded matrix on as it arrives: `reduce(i, gradient)` with i the matrix's index in the
/// partition and the gradient [rows, cols] f32 in original order, contiguous, where the decoder computes, valid only
/// during the call.
class GradientReducer : public PassObserver {
 public:
  using Reduce = std::function<void(std::size_t matrix, const at::Tensor& gradient)>;
  GradientReducer(const RoundedMatrices& matrices, const ModelSpec& spec, GradientKind kind, Reduce reduce);
  GradientKind gradient_kind() const override { return kind_; }
  bool wants_embedding_gradient() const override;
  void linear_gradient(std::int64_t layer, LinearKind kind, const at::Tensor& gradient) override;
  void embedding_gradient(const at::Tensor& gradient) override;
  void head_gradient(const at::Tensor& gradient) override;

 private:
  void hand_on(std::size_t matrix, const at::Tensor& gradient);
  const RoundedMatrices& matrices_;
  const ModelSpec& spec_;
  std::size_t linears_;
  GradientKind kind_;
  Reduce reduce_;
};

/// Mean square of each input channel of each linear layer: the clip search's importance.
class InputMoments : public PassObserver {
 public:
  explicit InputMoments(std::int64_t layers) : sums_(static_cast<std::size_t>(4 * layers)) {}
  bool wants_linear_inputs() const override { return true; }
  bool wants_linear_gradients() const override { return false; }
  void linear_input(std::int64_t layer, InputSite site, const at::Tensor& x) override;
  /// [cols] of the site's activations.
  std::vector<float> mean_squares(std::int64_t layer, InputSite site) const;

 private:
  struct Sum {
    std::vector<double> squares;
    std::int64_t tokens = 0;
  };
  std::vector<Sum> sums_;
};

}  // namespace scalebits
