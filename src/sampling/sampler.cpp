#include "sampling/sampler.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace scalebits {
namespace {

struct Candidate {
  float logit;
  std::int32_t id;
  bool operator<(const Candidate& other) const {  // likelier first
    return logit > other.logit || (logit == other.logit && id < other.id);
  }
};

void check_finite(std::span<const float> logits) {
  const bool finite = std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
  if (!finite || logits.empty()) fail_input("the model's logits are not finite numbers");
}

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

/// The smallest i with weights[0] + … + weights[i] > uniform * total.
std::size_t draw(std::span<const double> weights, double uniform) {
  const double wanted = uniform * std::accumulate(weights.begin(), weights.end(), 0.0);
  double sum = 0;
  std::size_t last_positive = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) last_positive = i;
    sum += weights[i];
    if (sum > wanted) return i;
  }
  return last_positive;  // rounding can leave the sum at `wanted`
}

/// Orders candidates by likelihood only as far as they are looked at: a vocabulary is long, its likely part short.
class SortedPrefix {
 public:
  explicit SortedPrefix(std::vector<Candidate>& all) : all_(all) {}
  const Candidate& operator[](std::size_t at) {
    if (at >= sorted_) sort(std::max<std::size_t>(at + 1, 8 * sorted_));
    return all_[at];
  }
  void sort(std::size_t count) {
    count = std::min(count, all_.size());
    if (count <= sorted_) return;
    const auto at = [&](std::size_t i) { return all_.begin() + static_cast<std::ptrdiff_t>(i); };
    if (count - sorted_ <= 256) {
      std::partial_sort(at(sorted_), at(count), all_.end());
    } else {
      std::nth_element(at(sorted_), at(count - 1), all_.end());
      std::sort(at(sorted_), at(count));
    }
    sorted_ = count;
  }

 private:
  std::vector<Candidate>& all_;
  std::size_t sorted_ = 0;
};

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

std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options,
                          std::span<const std::int32_t> history, double uniform) {
  validate(options);
  check_finite(logits);
  std::vector<float> changed;
  logits = penalised(logits, options, history, changed);
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0) return static_cast<std::int32_t>(likeliest - logits.begin());

  const auto weight = [&](float logit) {
    return std::exp((static_cast<double>(logit) - *likeliest) / options.temperature);
  };
  std::vector<double> weights(logits.size());
  if (options.top_k == 0 && options.top_p == 1 && options.min_p == 0) {
    std::transform(logits.begin(), logits.end(), weights.begin(), weight);
    return static_cast<std::int32_t>(draw(weights, uniform));
  }

  std::vector<Candidate> candidates(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) candidates[i] = {logits[i], static_cast<std::int32_t>(i)};
  SortedPrefix sorted(candidates);
  std::size_t kept = candidates.size();
  if (options.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options.top_k));
  sorted.sort(std::min<std::size_t>(kept, 64));
  if (options.top_k > 0) sorted.sort(kept);

  double total = 0;  // of what top-k left; in whatever order they lie, which depends on the logits alone
  if (options.top_p < 1)
    for (std::size_t i = 0; i < kept; ++i) total += weight(candidates[i].logit);
  double sum = 0;
  std::size_t count = 0;
  while (count < kept) {
    const double next = weight(sorted[count].logit);
    if (next < options.min_p) break;  // the likeliest's weight is 1
    sum += weights[count++] = next;
    if (options.top_p < 1 && sum >= options.top_p * total) break;
  }
  return candidates[draw(std::span(weights).first(count), uniform)].id;
}

}  // namespace scalebits
