// What the decoder is asked to lose little of: next-token negative log-likelihood, or the divergence from a reference
// model's predictions. Position t predicts token t + 1, so the first token of each window is not scored and the last
// position predicts nothing; there is no BOS unless the ids hold one.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace scalebits {

struct LossTarget {
  enum class Kind {
    nll,  // -log p(token t + 1)
    kl    // KL(reference || model) of the predictions at the same positions
  };
  Kind kind = Kind::nll;
  at::Tensor reference_hidden;  // kl: [windows, length, hidden] f32, the reference after its final norm
  at::Tensor reference_head;    // kl: [vocab, hidden], as a weight source gives it
};

/// All in nats. `length - 1` tokens are scored in each window.
struct LossResult {
  double mean = 0;
  std::vector<double> window_means;
  std::vector<float> token_losses;            // windows x (length - 1), row-major
  std::vector<std::uint8_t> top1_agreements;  // kl only: 1 where the likeliest tokens of both models are the same
};

}  // namespace scalebits
