// SNIP's third step: what a number format in a linear layer's forward product does to the loss. [ours]: half the
// curvature along the output's error times the error's square. The first-order change is measured, too, but says
// nothing of other batches: the mean gradient is small in training, what one batch adds to it is not (docs/method.md).
#pragma once

#include "train/noise_probes.h"
#include "train/step_statistics.h"

namespace scalebits {

/// Nats per token, both for one linear layer's forward product in `format`; zero for bf16.
struct LossDivergence {
  double first_order = 0;   // signed
  double second_order = 0;  // not negative: see loss_divergence
  double total() const;     // what a scheme is charged: second_order
};

/// A curvature that the probe found negative counts by its magnitude. It is noise as a rule, and nothing else says how
/// large a curvature may hide in it; counted as none, such layers were the first to get low precision.
LossDivergence loss_divergence(const StepStatistics& statistics, const NoiseResponse& response, std::size_t linear,
                               NumberFormat format);

}  // namespace scalebits
