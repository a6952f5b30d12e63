#include "train/weight_divergence.h"

#include <cmath>

namespace scalebits {
namespace {

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

}  // namespace

WeightDivergences::WeightDivergences(const ModelSpec& spec, const StepStatistics& statistics,
                                     const NoiseResponse& response)
    : spec_(spec), statistics_(statistics), response_(response),
      below_(static_cast<std::size_t>(spec.layers) + 1, 0.0) {
  double forward = 0, size = 0;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    double here = 0;
    for (const LinearKind kind : linear_kinds(spec)) {
      const std::size_t linear = linear_index(spec, layer, kind);
      const NoiseResponse::Linear& answer = response.linears[linear];
      here += relative_backward_update(layer, kind);
      forward += std::sqrt(ratio(answer.forward_update, statistics.linears[linear].weight));
      size += std::abs(answer.curvature) * answer.forward_noise;
    }
    below_[static_cast<std::size_t>(layer) + 1] = below_[static_cast<std::size_t>(layer)] + here;
  }
  forward_per_size_ = ratio(forward, std::sqrt(size));
}

double WeightDivergences::relative_backward_update(std::int64_t layer, LinearKind kind) const {
  const std::size_t linear = linear_index(spec_, layer, kind);
  return std::sqrt(ratio(response_.linears[linear].backward_update, statistics_.linears[linear].weight));
}

/// Σ_k |δu_k| / |W_k| upstream for an error of norm 1 in the gradient of a site's input.
double WeightDivergences::per_error_at(std::int64_t layer, InputSite site) const {
  const bool attention = site == InputSite::attention || site == InputSite::output;
  const NoiseResponse::Half& half = response_.halves.at({layer, attention ? InputSite::attention : InputSite::mlp});
  // In the probe most of the noise came down the residual stream; of what the half added this part.
  const double share = std::sqrt(ratio(half.branch, half.residual));
  double moved = share * below_[static_cast<std::size_t>(layer)];
  if (!attention)
    for (const LinearKind kind : {LinearKind::q, LinearKind::k, LinearKind::v, LinearKind::o})
      moved += share * relative_backward_update(layer, kind);
  if (site == InputSite::output)
    for (const LinearKind kind : {LinearKind::q, LinearKind::k, LinearKind::v})
      moved += relative_backward_update(layer, kind);
  if (site == InputSite::down)
    for (const LinearKind kind : {LinearKind::gate, LinearKind::up}) moved += relative_backward_update(layer, kind);
  return ratio(moved, std::sqrt(response_.sites.at({layer, site})));
}

WeightDivergence WeightDivergences::of(std::int64_t layer, LinearKind kind, const LinearFormats& formats) const {
  const std::size_t linear = linear_index(spec_, layer, kind);
  const LinearStatistics& found = statistics_.linears.at(linear);
  WeightDivergence divergence;
  if (formats.weight_gradient != NumberFormat::bf16)
    divergence.own = std::sqrt(ratio(found.errors.at(formats.weight_gradient).update, found.weight));
  if (formats.input_gradient != NumberFormat::bf16)
    divergence.upstream =
        std::sqrt(found.errors.at(formats.input_gradient).input_gradient) * per_error_at(layer, input_site(kind));
  if (formats.forward != NumberFormat::bf16)
    divergence.forward = forward_per_size_ * std::sqrt(std::abs(response_.linears[linear].curvature) *
                                                       found.errors.at(formats.forward).output);
  return divergence;
}

}  // namespace scalebits
