#include "train/adamw.h"

#include "core/lanes.h"
#include "core/parallel.h"
#include "train/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

namespace scalebits {
namespace {

constexpr std::int64_t kPiece = 1 << 14;

struct Factors {
  float beta1, beta2, epsilon, rate, decay, gradient_scale, mean_correction, square_correction;
};

SCALEBITS_CLONES
void update(float* value, const float* gradient, float* mean, float* square, std::int64_t count, const Factors& f) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * f.gradient_scale;
    const float m = f.beta1 * mean[i] + (1 - f.beta1) * g;
    const float s = f.beta2 * square[i] + (1 - f.beta2) * (g * g);
    mean[i] = m;
    square[i] = s;
    const float direction = m * f.mean_correction / (__builtin_sqrtf(s * f.square_correction) + f.epsilon);
    value[i] -= f.rate * (direction + f.decay * value[i]);
  }
}

SCALEBITS_CLONES
float sum_of_squares(const float* values, std::int64_t count) {
  Lanes sum{}, x;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    load_lanes(x, values + i);
    sum += x * x;
  }
  float total = sum_lanes(sum);
  for (; i < count; ++i) total += values[i] * values[i];
  return total;
}

/// body(parameter, first element, count, piece number) over all parameters in pieces of a fixed size.
template <typename Body>
std::int64_t for_pieces(const std::vector<Parameter>& parameters, Body&& body) {
  struct Piece {
    const Parameter* parameter;
    std::int64_t first, count;
  };
  std::vector<Piece> pieces;
  for (const Parameter& parameter : parameters)
    for (std::int64_t first = 0; first < parameter.value.numel(); first += kPiece)
      pieces.push_back({&parameter, first, std::min(kPiece, parameter.value.numel() - first)});
  parallel_for(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    body(*piece.parameter, piece.first, piece.count, i);
  });
  return static_cast<std::int64_t>(pieces.size());
}

}  // namespace

double AdamWStep::mean_correction(const AdamWOptions& options) const {
  return 1 / (1 - std::pow(options.beta1, static_cast<double>(step + 1)));
}

double AdamWStep::square_correction(const AdamWOptions& options) const {
  return 1 / (1 - std::pow(options.beta2, static_cast<double>(step + 1)));
}

double gradient_norm(const Parameters& parameters) {
  std::int64_t elements = 0;
  for (const Parameter& parameter : parameters.all()) elements += parameter.value.numel() / kPiece + 1;
  std::vector<float> sums(static_cast<std::size_t>(elements));
  const std::int64_t pieces = for_pieces(parameters.all(), [&](const Parameter& parameter, std::int64_t first,
                                                               std::int64_t count, std::int64_t piece) {
    sums[static_cast<std::size_t>(piece)] = sum_of_squares(parameter.gradient.const_data_ptr<float>() + first, count);
  });
  double total = 0;
  for (std::int64_t piece = 0; piece < pieces; ++piece) total += sums[static_cast<std::size_t>(piece)];
  return std::sqrt(total);
}

double clip_scale(double norm, double clip_norm) { return norm > clip_norm ? clip_norm / norm : 1.0; }

void adamw_update(Parameters& parameters, const AdamWOptions& options, const AdamWStep& step) {
  const Factors factors{static_cast<float>(options.beta1),
                        static_cast<float>(options.beta2),
                        static_cast<float>(options.epsilon),
                        static_cast<float>(step.rate),
                        static_cast<float>(options.weight_decay),
                        static_cast<float>(step.gradient_scale),
                        static_cast<float>(step.mean_correction(options)),
                        static_cast<float>(step.square_correction(options))};
  for_pieces(parameters.all(), [&](const Parameter& parameter, std::int64_t first, std::int64_t count, std::int64_t) {
    Factors own = factors;
    if (!parameter.decays) own.decay = 0;
    // The tensors share their memory with the copies of these handles.
    update(static_cast<float*>(parameter.value.data_ptr()) + first, parameter.gradient.const_data_ptr<float>() + first,
           static_cast<float*>(parameter.mean.data_ptr()) + first,
           static_cast<float*>(parameter.square.data_ptr()) + first, count, own);
  });
}

double learning_rate(const Schedule& schedule, std::uint64_t step) {
  if (step < schedule.warmup_steps)
    return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps);
  const auto length = static_cast<double>(std::max<std::uint64_t>(1, schedule.steps - schedule.warmup_steps));
  const double done = std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / length);
  const double lowest = schedule.peak * schedule.lowest_share;
  return lowest + (schedule.peak - lowest) * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace scalebits
