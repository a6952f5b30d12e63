// The Llama-type decoder in training: loss and gradients of all parameters, each product of each linear layer in the
// number format that a scheme names. Forward and backward are written out by hand on the graph room's kernels; all
// activations of the batch are kept. Attention, norms, embedding, head and the residual stream stay in the operand type
// or f32, as SNIP's recipe has it. It computes where the parameters lie.
#pragma once

#include "graph/layer.h"
#include "graph/loss.h"
#include "graph/observer.h"
#include "graph/rope.h"
#include "graph/workspace.h"
#include "train/parameters.h"
#include "train/precision_scheme.h"
#include "train/quantized_products.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// What may be looked at, and where it says so changed, during one step. Tensors are on loan for the call.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  /// y [n, rows] = x W^T of each linear layer, in the operand type, in the order they run; y may be changed.
  virtual void after_forward(std::size_t /*linear*/, const at::Tensor& /*y*/) {}
  /// The gradient of the residual stream behind the last layer [n, hidden] f32; may be changed.
  virtual void loss_gradient(const at::Tensor& /*dx*/) {}
  /// When a linear layer's weight gradient is made: its input and output gradient in the operand type.
  virtual void after_backward(std::size_t /*linear*/, ProductInput& /*x*/, const at::Tensor& /*dy*/) {}
  /// The whole gradient of a linear site's input [n, width], operand type, layers descending.
  virtual void site_gradient(std::int64_t /*layer*/, InputSite, const at::Tensor& /*dx*/) {}
  /// The gradient of the residual stream in front of the MLP's half (InputSite::mlp) or of attention's half
  /// (InputSite::attention) of a layer, [n, hidden] f32.
  virtual void residual_gradient(std::int64_t /*layer*/, InputSite /*half*/, const at::Tensor& /*dx*/) {}
};

struct TrainingGraphOptions {
  at::ScalarType operand = at::kBFloat16;  // kFloat or kBFloat16
  std::uint64_t seed = 0;                  // of stochastic rounding
};

class TrainingGraph {
 public:
  /// Keeps a reference to `parameters`. Uses thread_count() threads of the processor; results are the same for the same
  /// number.
  TrainingGraph(Parameters& parameters, const TrainingGraphOptions& options);

  const ModelSpec& spec() const { return parameters_.spec(); }
  at::ScalarType operand() const { return options_.operand; }
  Parameters& parameters() { return parameters_; }
  const TrainPlace& place() const { return parameters_.place(); }
  ProductContext products() { return {place(), workspace_}; }
  Workspace& workspace() { return workspace_; }

  /// ids [windows, length] int64 in host memory, length >= 2. Overwrites all gradients of the parameters with those of
  /// the mean loss. `step` goes into the draws of stochastic rounding. Throws Error(bad_input) when the loss is not
  /// finite.
  LossResult loss_and_gradients(const at::Tensor& ids, const PrecisionScheme& scheme, std::uint64_t step,
                                StepObserver* observer = nullptr);
  /// The forward pass alone; nothing in it is random.
  LossResult loss(const at::Tensor& ids, const PrecisionScheme& scheme);

  /// Of one product's stochastic rounding.
  std::uint64_t rounding_key(std::uint64_t step, std::size_t linear, LinearProduct product) const;

 private:
  struct Pass;
  at::Tensor forward(Pass& pass, const at::Tensor& ids);
  void forward_layer(Pass& pass, std::int64_t layer, const at::Tensor& y);
  void backward_layer(Pass& pass, std::int64_t layer, const at::Tensor& dx);
  LayerActivations activations(const Pass& pass, std::int64_t layer);
  at::Tensor layer_input(const Pass& pass, std::int64_t layer);
  at::Tensor temporary(const Pass& pass, const char* name, std::int64_t width);
  Norm norm(const std::string& weight_name);
  const Arithmetic& run() const { return *place().arithmetic; }

  Parameters& parameters_;
  TrainingGraphOptions options_;
  RopeTable rope_;
  Workspace workspace_;
};

}  // namespace scalebits
