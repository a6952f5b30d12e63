#include "sampling/sampler.h"

#include "core/error.h"
#include "core/largest.h"
#include "sampling/logit_passes.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace scalebits {
namespace {

/// The logits as they are, or in `changed` with the recent tokens' lowered.
std::span<const float> penalised(std::span<const float> logits, const SamplingOptions& options,
                                 std::span<const std::int32_t> history, std::vector<float>& changed) {
  if (options.repetition_penalty == 1) return logits;
  changed.assign(logits.begin(), logits.end());
  const std::size_t window = std::min(history.size(), static_cast<std::size_t>(options.repetition_window));
  for (const std::int32_t id : history.last(window)) {
    if (id < 0 || static_cast<std::size_t>(id) >= logits.size())
      fail_input("token {} of the history has no logit; there are {}", id, logits.size());
    const auto at = static_cast<std::size_t>(id);
    const double logit = logits[at];  // not changed[at]: a token counts once
    changed[at] =
        static_cast<float>(logit > 0 ? logit / options.repetition_penalty : logit * options.repetition_penalty);
  }
  return changed;
}

/// A logit below which weights are smaller than `weight`, in (0, 1]. By the powers of two, so that it does not depend
/// on how the machine computes logarithms: it may let some pass, never the other way round.
float least_logit(double weight, const WeightRule& rule, double temperature) {
  constexpr double kLn2 = 0.6931471805599453, kRounding = 1e-3;  // of weights in f32
  return static_cast<float>(
      std::max<double>(-FLT_MAX, rule.largest + temperature * (kLn2 * std::ilogb(weight) - kRounding)));
}

/// One of all, in the order of their ids; `sums` are those of sum_weights.
std::int32_t draw_of_all(std::span<const float> logits, const WeightRule& rule, std::span<const double> sums,
                         double wanted, std::vector<float>& weights) {
  const auto length = static_cast<std::size_t>(kWeightChunk);
  double sum = 0;
  std::size_t chunk = 0, last_positive = 0;
  for (; chunk < sums.size() && sum + sums[chunk] <= wanted; ++chunk) {
    if (sums[chunk] > 0) last_positive = chunk;
    sum += sums[chunk];
  }
  if (chunk == sums.size()) chunk = last_positive;  // rounding can leave the sum at `wanted`
  const std::size_t begin = chunk * length, count = std::min(length, logits.size() - begin);
  weights.resize(length);
  weigh(logits.subspan(begin, count), rule, weights.data());
  std::size_t last = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (weights[i] > 0) last = i;
    sum += static_cast<double>(weights[i]);
    if (sum > wanted) break;
  }
  return static_cast<std::int32_t>(begin + last);
}

}  // namespace

void validate(const SamplingOptions& options) {
  if (!(options.temperature >= 0 && std::isfinite(options.temperature)))
    fail(ErrorKind::usage, "temperature must be 0 or more, found {}", options.temperature);
  if (options.top_k < 0) fail(ErrorKind::usage, "top-k must be 0 (all) or more, found {}", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1))
    fail(ErrorKind::usage, "top-p must be in (0, 1], found {}", options.top_p);
  if (!(options.min_p >= 0 && options.min_p <= 1))
    fail(ErrorKind::usage, "min-p must be in [0, 1], found {}", options.min_p);
  if (!(options.repetition_penalty >= 0.01 && options.repetition_penalty <= 100))  // else logits could overflow
    fail(ErrorKind::usage, "the repetition penalty must be 0.01 to 100, found {}", options.repetition_penalty);
  if (options.repetition_window < 0)
    fail(ErrorKind::usage, "the repetition window must be 0 or more tokens, found {}", options.repetition_window);
}

std::int32_t Sampler::choose(std::span<const float> logits, const SamplingOptions& options,
                             std::span<const std::int32_t> history, double uniform) {
  validate(options);
  if (logits.empty()) fail_input("there are no logits to choose a token by");
  logits = penalised(logits, options, history, penalised_);
  const Largest largest = largest_of(logits.data(), static_cast<std::int64_t>(logits.size()));
  if (!largest.finite) fail_input("the model's logits are not finite numbers");
  if (options.temperature == 0) return static_cast<std::int32_t>(largest.index);

  const WeightRule rule{.largest = largest.value,
                        .per_logit = static_cast<float>(std::min<double>(FLT_MAX, 1 / options.temperature))};
  const bool cuts_number = options.top_k > 0, cuts_mass = options.top_p < 1, cuts_ratio = options.min_p > 0;
  double total = 0;  // of what top-k left
  if (!cuts_number && (cuts_mass || !cuts_ratio)) total = sum_weights(logits, rule, sums_);
  if (!cuts_number && !cuts_mass && !cuts_ratio) return draw_of_all(logits, rule, sums_, uniform * total, weights_);

  // Only those that no cut can leave out: of a vocabulary some hundred, as a rule.
  float least = -FLT_MAX;
  const auto require = [&](float logit) { least = std::max(least, logit); };
  if (cuts_number) require(reached_by(logits, options.top_k, maxima_));
  if (cuts_ratio && !(cuts_number && cuts_mass)) require(least_logit(options.min_p, rule, options.temperature));
  // Those less likely than a share of 1 - p among all of them hold less than 1 - p together.
  if (cuts_mass && !cuts_number) {
    const double share = (1 - options.top_p) / static_cast<double>(logits.size());
    require(least_logit(share * total, rule, options.temperature));
  }
  gather(logits, least, candidates_);
  if (cuts_number && candidates_.size() > static_cast<std::size_t>(options.top_k)) {
    std::nth_element(candidates_.begin(), candidates_.begin() + (options.top_k - 1), candidates_.end(), likelier);
    candidates_.resize(static_cast<std::size_t>(options.top_k));
  }
  weigh(candidates_, rule);
  if (cuts_number)
    for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    return !(candidate.weight > 0) || static_cast<double>(candidate.weight) < options.min_p;
  });
  if (cuts_mass) ranked_.keep_likeliest(candidates_, options.top_p * total);
  return ranked_.draw(candidates_, uniform);
}

std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options,
                          std::span<const std::int32_t> history, double uniform) {
  return Sampler().choose(logits, options, history, uniform);
}

}  // namespace scalebits
