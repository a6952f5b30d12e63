#include "evaluate/token_loss.h"

#include "core/lanes.h"

#include <cmath>

namespace scalebits {
namespace {

constexpr std::int64_t kLanesPerFlush = 64;

/// Lanes beyond a row's end must not count.
SCALEBITS_INLINE void clear_tail(Lanes& lanes, std::int64_t count) {
  for (std::int64_t i = count; i < kLanes; ++i) lanes[i] = 0;
}

SCALEBITS_INLINE void flush(Lanes& lanes, double& total) {
  for (int i = 0; i < kLanes; ++i) total += static_cast<double>(lanes[i]);
  lanes = Lanes{};
}

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

/// log Σ exp, as f64; `top` is the largest.
SCALEBITS_INLINE double log_sum_exp(const float* logits, std::int64_t vocab, float top) {
  double total = 0;
  Lanes lanes = {};
  std::int64_t pending = 0;
  for (std::int64_t i = 0; i < vocab; i += kLanes) {
    Lanes power;
    load_some_lanes(power, logits + i, vocab - i);
    power = power - top;
    exp_lanes(power);
    if (vocab - i < kLanes) clear_tail(power, vocab - i);
    lanes += power;
    if (++pending == kLanesPerFlush) flush(lanes, total), pending = 0;
  }
  flush(lanes, total);
  return static_cast<double>(top) + std::log(total);
}

}  // namespace

SCALEBITS_CLONES
double negative_log_likelihood(const float* logits, std::int64_t vocab, std::int64_t target) {
  return log_sum_exp(logits, vocab, maximum(logits, vocab)) - static_cast<double>(logits[target]);
}

SCALEBITS_CLONES
TokenDivergence divergence(const float* logits, const float* reference, std::int64_t vocab) {
  const float top = maximum(logits, vocab), reference_top = maximum(reference, vocab);
  // Both in f32, so that equal models differ by exactly nothing.
  const auto log_sum = static_cast<float>(log_sum_exp(logits, vocab, top));
  const auto reference_log_sum = static_cast<float>(log_sum_exp(reference, vocab, reference_top));
  double total = 0;
  Lanes lanes = {};
  std::int64_t pending = 0;
  for (std::int64_t i = 0; i < vocab; i += kLanes) {
    Lanes log_p, log_q;
    load_some_lanes(log_p, reference + i, vocab - i);
    load_some_lanes(log_q, logits + i, vocab - i);
    log_p = log_p - reference_log_sum;
    log_q = log_q - log_sum;
    Lanes p = log_p;
    exp_lanes(p);
    p = p * (log_p - log_q);
    if (vocab - i < kLanes) clear_tail(p, vocab - i);
    lanes += p;
    if (++pending == kLanesPerFlush) flush(lanes, total), pending = 0;
  }
  flush(lanes, total);
  return {total, first_of(logits, top) == first_of(reference, reference_top)};
}

}  // namespace scalebits
