#include "evaluate/token_loss.h"

#include "core/lanes.h"

#include <cmath>

namespace scalebits {
namespace {

/// Lanes of f32, emptied into f64 before they grow inexact.
class LongLanes {
 public:
  SCALEBITS_INLINE void add(const Lanes& values) {
    lanes_ += values;
    if (++pending_ == 64) flush();
  }
  SCALEBITS_INLINE double total() {
    flush();
    return total_;
  }

 private:
  SCALEBITS_INLINE void flush() {
    for (int i = 0; i < kLanes; ++i) total_ += static_cast<double>(lanes_[i]);
    lanes_ = Lanes{};
    pending_ = 0;
  }
  Lanes lanes_ = {};
  double total_ = 0;
  int pending_ = 0;
};

SCALEBITS_INLINE float maximum(const float* values, std::int64_t count) {
  Lanes best = Lanes{} + values[0];
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Lanes some;
    load_lanes(some, values + i);
    best = some > best ? some : best;
  }
  float top = values[0];
  for (int lane = 0; lane < kLanes; ++lane) top = best[lane] > top ? best[lane] : top;
  for (; i < count; ++i) top = values[i] > top ? values[i] : top;
  return top;
}

SCALEBITS_INLINE std::int64_t first_of(const float* values, float wanted) {
  std::int64_t i = 0;
  while (values[i] != wanted) ++i;
  return i;
}

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
  return log_sum_exp(logits, vocab, maximum(logits, vocab)) - static_cast<double>(logits[target]);
}

SCALEBITS_CLONES
TokenDivergence divergence(const float* logits, const float* reference, std::int64_t vocab) {
  const float top = maximum(logits, vocab), reference_top = maximum(reference, vocab);
  const auto log_sum = static_cast<float>(log_sum_exp(logits, vocab, top));
  const auto reference_log_sum = static_cast<float>(log_sum_exp(reference, vocab, reference_top));
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
  return {sum.total(), first_of(logits, top) == first_of(reference, reference_top)};
}

}  // namespace scalebits
