#include "model/rope_frequencies.h"

#include <cmath>
#include <numbers>

namespace scalebits {

std::vector<double> rope_frequencies(const ModelSpec& spec) {
  const RopeScaling& scaling = spec.rope_scaling;
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < spec.head_dim / 2; ++i) {
    double frequency = std::pow(spec.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(spec.head_dim));
    if (scaling.kind == RopeScaling::Kind::linear) frequency /= scaling.factor;
    if (scaling.kind == RopeScaling::Kind::llama3) {
      // Long waves are slowed by the factor, short ones kept, those between blended by how often they turn in the
      // original context.
      const double turns = static_cast<double>(scaling.original_max_positions) * frequency / (2 * std::numbers::pi);
      if (turns < scaling.low_freq_factor) {
        frequency /= scaling.factor;
      } else if (turns <= scaling.high_freq_factor) {
        const double keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
        frequency = (1 - keep) * frequency / scaling.factor + keep * frequency;
      }
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace scalebits
