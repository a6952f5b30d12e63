// AdamW on the master weights (Loshchilov & Hutter, arXiv 1711.05101), gradient clipping by the global norm, and the
// cosine schedule with warm-up.
#pragma once

#include <cstdint>

namespace scalebits {

class Parameters;

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;  // times the learning rate; of matrices alone
};

/// What is the same for all elements in a step: update = -rate (mean' c1 / (sqrt(square' c2) + epsilon) + decay value).
struct AdamWStep {
  double rate = 0;
  std::uint64_t step = 0;                                       // updates made before this one
  double gradient_scale = 1;                                    // clipping
  double mean_correction(const AdamWOptions& options) const;    // c1 = 1 / (1 - beta1^(step + 1))
  double square_correction(const AdamWOptions& options) const;  // c2
};

/// sqrt(Σ gradient²) over all parameters, summed in an order that does not depend on threads.
double gradient_norm(const Parameters& parameters);
/// What clipping multiplies gradients of this norm by.
double clip_scale(double norm, double clip_norm);
/// Updates values, means and squares from the gradients.
void adamw_update(Parameters& parameters, const AdamWOptions& options, const AdamWStep& step);

struct Schedule {
  double peak = 1e-3, lowest_share = 0.1;  // the rate ends at peak * lowest_share
  std::uint64_t warmup_steps = 0, steps = 1;
};
/// Linear from 0 over the warm-up (the first update is not of rate 0), then half a cosine down to the end.
double learning_rate(const Schedule& schedule, std::uint64_t step);

}  // namespace scalebits
