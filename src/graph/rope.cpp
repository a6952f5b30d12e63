#include "graph/rope.h"

#include "core/error.h"
#include "graph/elementwise.h"

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

void RopeTable::reserve(std::int64_t positions) {
  const std::size_t half = frequencies_.size();
  std::size_t have = cosines_.size() / half;
  cosines_.resize(std::max(cosines_.size(), static_cast<std::size_t>(positions) * half));
  sines_.resize(cosines_.size());
  for (; have < cosines_.size() / half; ++have) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(have) * frequencies_[i];
      cosines_[have * half + i] = static_cast<float>(std::cos(angle));
      sines_[have * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void RopeTable::rotate(const at::Tensor& rows, std::int64_t length, std::int64_t first, float sign) const {
  const auto half = static_cast<std::int64_t>(frequencies_.size());
  const std::int64_t width = rows.size(-1), heads = width / (2 * half);
  SCALEBITS_ASSERT((first + length) * half <= static_cast<std::int64_t>(cosines_.size()));
  with_kernel_type(rows.scalar_type(), [&]<typename T>() {
    auto* data = data_of<T>(rows);
    for_rows(rows.numel() / width, width, [&](std::int64_t row) {
      const std::int64_t angles = (first + row % length) * half;
      row_kernels<T>().rotate(data + row * width, heads, 2 * half, cosines_.data() + angles, sines_.data() + angles,
                              sign);
    });
  });
}

}  // namespace scalebits
