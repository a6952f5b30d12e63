#include "evaluate/token_loss.h"

#include "core/lanes.h"
#include "core/largest.h"

#include <cmath>

namespace scalebits {
namespace {

/// log Σ exp; `top` is the largest.
SCALEBITS_INLINE double log_sum_exp(const float* logits, std::int64_t vocab, float top) {
  LongLanes sum;
  for_lanes(vocab, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes power;
    load_lanes(power, logits + i, which);
    power = power - top;
    exp_lanes(power);
    keep_lanes(power, which);
    sum.add(power);
  });
  return static_cast<double>(top) + std::log(sum.total());
}

}  // namespace

SCALEBITS_CLONES
double negative_log_likelihood(const float* logits, std::int64_t vocab, std::int64_t target) {
  return log_sum_exp(logits, vocab, largest_of(logits, vocab).value) - static_cast<double>(logits[target]);
}

SCALEBITS_CLONES
TokenDivergence divergence(const float* logits, const float* reference, std::int64_t vocab) {
  const Largest top = largest_of(logits, vocab), reference_top = largest_of(reference, vocab);
  const auto log_sum = static_cast<float>(log_sum_exp(logits, vocab, top.value));
  const auto reference_log_sum = static_cast<float>(log_sum_exp(reference, vocab, reference_top.value));
  LongLanes sum;
  for_lanes(vocab, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes log_p, log_q;
    load_lanes(log_p, reference + i, which);
    load_lanes(log_q, logits + i, which);
    log_p = log_p - reference_log_sum;
    log_q = log_q - log_sum;
    Lanes p = log_p;
    exp_lanes(p);
    p = p * (log_p - log_q);
    keep_lanes(p, which);
    sum.add(p);
  });
  return {sum.total(), top.index == reference_top.index};
}

}  // namespace scalebits
