// SNIP's fourth step: how far a linear layer's precision moves the model's next update from that of full precision,
// Σ_k |δu_k| / |W_k| over the linear layers k, AdamW's update of each. [ours], three ways: the layer's own weight
// gradient product, measured; the error of its input gradient, carried upstream as the backward probe's noise was; and
// the error of its output, which turns all gradients as the forward probe's noise did.
#pragma once

#include "train/noise_probes.h"
#include "train/step_statistics.h"

#include <cmath>

namespace scalebits {

struct WeightDivergence {
  double own = 0;       // by the weight gradient's product
  double upstream = 0;  // by the input gradient's product
  double forward = 0;   // by the forward product
  /// The three change the gradients independently, so their squares add up.
  double total() const { return std::sqrt(own * own + upstream * upstream + forward * forward); }
};

class WeightDivergences {
 public:
  /// Keeps references.
  WeightDivergences(const ModelSpec& spec, const StepStatistics& statistics, const NoiseResponse& response);
  WeightDivergence of(std::int64_t layer, LinearKind kind, const LinearFormats& formats) const;

 private:
  double relative_backward_update(std::int64_t layer, LinearKind kind) const;
  double per_error_at(std::int64_t layer, InputSite site) const;

  const ModelSpec& spec_;
  const StepStatistics& statistics_;
  const NoiseResponse& response_;
  std::vector<double> below_;  // [layer]: Σ |δu| / |W| of all linears in layers below it, under the backward probe
  // Σ_k |δu_k| / |W_k| under the forward probe, per root of Σ_l |curvature_l| |n_l|²: the probe disturbed half of all
  // outputs at once, and a layer's part in what that did is taken to be its part of the noise in the loss' own measure.
  double forward_per_size_ = 0;
};

}  // namespace scalebits
