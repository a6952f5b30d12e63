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
  double forward = 0;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    double here = 0;
    for (const LinearKind kind : linear_kinds(spec)) {
      const std::size_t linear = linear_index(spec, layer, kind);
      here += relative_backward_update(layer, kind);
      forward += std::sqrt(ratio(response.linears[linear].forward_update, statistics.linears[linear].weight));
    }
    below_[static_cast<std::size_t>(layer) + 1] = below_[static_cast<std::size_t>(layer)] + here;
  }
  // The probe disturbed all outputs at once by the same relative noise; independent parts add up in squares.
  forward_per_noise_ = forward / std::sqrt(static_cast<double>(linear_count(spec)));
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
    divergence.forward =
        std::sqrt(ratio(found.errors.at(formats.forward).output, response_.linears[linear].forward_noise)) *
        forward_per_noise_;
  return divergence;
}

}  // namespace scalebits
