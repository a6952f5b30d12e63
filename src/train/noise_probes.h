// SNIP's second step: how the pass answers small noise, for second-order information without Hessians. Backward probe:
// Gaussian noise on the gradient behind the last layer, to see what reaches each layer's gradients. Forward probe:
// linear layers' outputs are off by the low format's own error, to see how the output's gradient turns with it; in each
// window a random half of them at a time, in a second pass the others, since a layer's error costs what it does in
// company, and a scheme of mixed formats has less of that than one of low precision everywhere.
// [ours] The paper tells of the probes, with Gaussian noise in both, not of what is read off them. Noise that is
// independent from token to token misses half of what quantisation does to the loss: a weight's error is the same for
// all tokens, and what attention would average away stays (docs/method.md has the figures).
#pragma once

#include "train/step_statistics.h"
#include "train/tensor_sums.h"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace scalebits {

/// Everything of an undisturbed pass that the probes are compared with: as much memory as the gradients of all
/// activations.
class PassRecord : public StepObserver {
 public:
  void after_backward(std::size_t linear, ProductInput& x, const at::Tensor& dy) override;
  void site_gradient(std::int64_t layer, InputSite site, const at::Tensor& dx) override;
  void loss_gradient(const at::Tensor& dx) override;
  void residual_gradient(std::int64_t layer, InputSite half, const at::Tensor& dx) override;
  /// After the pass.
  void keep_weight_gradients(const Parameters& parameters);

  std::map<std::size_t, at::Tensor> output_gradients;
  std::map<std::pair<std::int64_t, InputSite>, at::Tensor> site_gradients;
  std::vector<at::Tensor> residual_gradients;  // in the order of the backward pass, the loss' first
  std::vector<at::Tensor> weight_gradients;    // by place in Parameters::all()
  std::vector<at::Tensor> output_errors;       // by linear_index(); StatisticsCollector's
};

/// Squares of Frobenius norms, unless said otherwise.
struct NoiseResponse {
  struct Linear {
    double curvature = 0;        // of the loss along the output's error e: <e, change of the output's gradient> ÷ |e|²,
                                 // not squared; may be negative
    double forward_noise = 0;    // |e|²
    double forward_update = 0;   // |change of AdamW's update|² under the forward probe, summed over its two passes
    double backward_update = 0;  // the same under the backward probe
  };
  /// What the backward probe left behind each half of a layer.
  struct Half {
    double branch = 0;    // |change of what the half adds to the residual stream's gradient|²
    double residual = 0;  // |change of the residual stream's gradient in front of the half|²
  };
  std::vector<Linear> linears;                                 // by linear_index()
  std::map<std::pair<std::int64_t, InputSite>, double> sites;  // |change of the site's input gradient|²
  std::map<std::pair<std::int64_t, InputSite>, Half> halves;   // by layer and InputSite::mlp or ::attention
};

/// Which layers' outputs are off in which window of one pass of the forward probe: a random half under the key, or the
/// `second`, which has the others.
struct ErrorHalf {
  std::uint64_t key = 0;
  bool second = false;
  bool contains(std::size_t linear, std::int64_t window) const;
};

struct ProbeOptions {
  double noise = 0.03;  // of the backward probe, relative to the root mean square of what it is added to
  AdamWOptions adamw;
  AdamWStep update;
  std::uint64_t key = 0;
};

/// Three passes over `ids`. The graph's gradients are those of the last probe afterwards.
NoiseResponse probe_with_noise(TrainingGraph& graph, const at::Tensor& ids, const PassRecord& undisturbed,
                               const ProbeOptions& options);

}  // namespace scalebits
