#include "graph/sampler.h"

#include "core/error.h"
#include "graph/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace scalebits {
namespace {

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

}  // namespace

void validate(const SamplingOptions& options) {
  if (!(options.temperature >= 0))
    fail(ErrorKind::usage, "temperature must be 0 or more, found {}", options.temperature);
  if (options.top_k < 0) fail(ErrorKind::usage, "top-k must be 0 (all) or more, found {}", options.top_k);
  if (!(options.top_p > 0 && options.top_p <= 1))
    fail(ErrorKind::usage, "top-p must be in (0, 1], found {}", options.top_p);
}

std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, double uniform) {
  const auto likeliest = std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(*likeliest)) fail_input("the model's logits are not finite");
  if (options.temperature == 0) return static_cast<std::int32_t>(likeliest - logits.begin());

  const auto weight = [&](float logit) {
    return std::exp((static_cast<double>(logit) - *likeliest) / options.temperature);
  };
  std::vector<double> weights(logits.size());
  if (options.top_k == 0 && options.top_p == 1) {
    std::transform(logits.begin(), logits.end(), weights.begin(), weight);
    return static_cast<std::int32_t>(draw(weights, uniform));
  }
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::size_t kept = options.top_k > 0 ? std::min(order.size(), static_cast<std::size_t>(options.top_k)) : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), [&](auto a, auto b) {
    const float la = logits[static_cast<std::size_t>(a)], lb = logits[static_cast<std::size_t>(b)];
    return la > lb || (la == lb && a < b);
  });
  double total = 0;
  for (std::size_t i = 0; i < kept; ++i) total += weights[i] = weight(logits[static_cast<std::size_t>(order[i])]);
  double sum = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    sum += weights[i];
    if (sum >= options.top_p * total) kept = i + 1;
  }
  return order[draw(std::span(weights).first(kept), uniform)];
}

}  // namespace scalebits
