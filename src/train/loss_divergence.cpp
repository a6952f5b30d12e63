#include "train/loss_divergence.h"

#include <cmath>

namespace scalebits {

double LossDivergence::total() const { return second_order; }

LossDivergence loss_divergence(const StepStatistics& statistics, const NoiseResponse& response, std::size_t linear,
                               NumberFormat format) {
  if (format == NumberFormat::bf16) return {};
  const FormatErrors& errors = statistics.linears.at(linear).errors.at(format);
  return {errors.loss_slope, 0.5 * std::abs(response.linears.at(linear).curvature) * errors.output};
}

}  // namespace scalebits
