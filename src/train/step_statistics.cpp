#include "train/step_statistics.h"

#include "core/error.h"
#include "core/lanes.h"
#include "core/parallel.h"
#include "train/tensor_sums.h"

#include <ATen/ops/sub.h>

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

struct Factors {
  float beta1, beta2, epsilon, rate, gradient_scale, mean_correction, square_correction;
};

SCALEBITS_CLONES
double update_change(const float* mean, const float* square, const float* gradient, const float* changed,
                     std::int64_t count, const Factors& f) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto direction = [&](float g) SCALEBITS_STEP {
      g *= f.gradient_scale;
      const float m = f.beta1 * mean[i] + (1 - f.beta1) * g, s = f.beta2 * square[i] + (1 - f.beta2) * (g * g);
      return m * f.mean_correction / (__builtin_sqrtf(s * f.square_correction) + f.epsilon);
    };
    const float change = f.rate * (direction(changed[i]) - direction(gradient[i]));
    sum += static_cast<double>(change) * change;
  }
  return sum;
}

}  // namespace

double squared_update_change(const Parameter& parameter, const AdamWOptions& adamw, const AdamWStep& update,
                             const at::Tensor& gradient, const at::Tensor& changed) {
  const Factors factors{static_cast<float>(adamw.beta1),
                        static_cast<float>(adamw.beta2),
                        static_cast<float>(adamw.epsilon),
                        static_cast<float>(update.rate),
                        static_cast<float>(update.gradient_scale),
                        static_cast<float>(update.mean_correction(adamw)),
                        static_cast<float>(update.square_correction(adamw))};
  constexpr std::int64_t kPiece = 1 << 14;
  const std::int64_t count = gradient.numel();
  std::vector<double> parts(static_cast<std::size_t>((count + kPiece - 1) / kPiece));
  parallel_for(static_cast<std::int64_t>(parts.size()), [&](std::int64_t piece) {
    const std::int64_t first = piece * kPiece;
    parts[static_cast<std::size_t>(piece)] =
        update_change(parameter.mean.const_data_ptr<float>() + first, parameter.square.const_data_ptr<float>() + first,
                      gradient.const_data_ptr<float>() + first, changed.const_data_ptr<float>() + first,
                      std::min(kPiece, count - first), factors);
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

StatisticsCollector::StatisticsCollector(TrainingGraph& graph, std::vector<NumberFormat> formats,
                                         const AdamWOptions& adamw, const AdamWStep& update, bool operands_only)
    : graph_(graph), formats_(std::move(formats)), adamw_(adamw), update_(update), operands_only_(operands_only) {
  statistics_.linears.resize(linear_count(graph.spec()));
  output_errors_.resize(linear_count(graph.spec()));
}

void StatisticsCollector::after_backward(std::size_t linear, ProductInput& x, const at::Tensor& dy) {
  const auto kinds = linear_kinds(graph_.spec());
  const auto layer = static_cast<std::int64_t>(linear / kinds.size());
  const Parameter& parameter = graph_.parameters().of_linear(layer, kinds[linear % kinds.size()]);
  const at::Tensor &w = parameter.value, &dw = parameter.gradient;
  const ProductContext context = graph_.products();
  const TrainArithmetic& run = *graph_.place().train;
  const auto product = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return context.workspace.take(name, {rows, cols}, at::kFloat);
  };
  const std::int64_t tokens = dy.size(0), outputs = w.size(0), inputs = w.size(1);
  LinearStatistics& found = statistics_.linears[linear];
  found.input = run.squared_norm(x.exact());
  found.weight = run.squared_norm(w);
  found.gradient = run.squared_norm(dy);
  found.weight_gradient = run.squared_norm(dw);
  const at::Tensor y = product("exact output", tokens, outputs), dx = product("exact input gradient", tokens, inputs);
  if (!operands_only_) {
    quantized_forward({}, x, w, y, context);
    quantized_input_gradient({}, dy, w, dx, false, context);
    found.output = run.squared_norm(y);
  }
  for (const NumberFormat format : formats_) {
    FormatErrors& errors = found.errors[format];
    if (format == NumberFormat::bf16) continue;  // the measuring pass itself
    const auto rounding = [&](LinearProduct which) {
      // Other draws than those of the step that follows.
      return ProductRounding{format, graph_.rounding_key(~update_.step, linear, which)};
    };
    errors.input = run.squared_distance(x.quantized(format, Tiling::along_rows), x.exact());
    errors.weight = run.squared_distance(
        put_on_grid({.format = format, .is_weight = true}, w, at::kFloat, "measured weight", context), w);
    errors.gradient = run.squared_distance(
        put_on_grid(
            {.format = format, .stochastic = is_fp4(format), .key = rounding(LinearProduct::input_gradient).key}, dy,
            dy.scalar_type(), "measured gradient", context),
        dy);
    if (operands_only_) continue;
    const at::Tensor rough_y = product("rough output", tokens, outputs);
    quantized_forward(rounding(LinearProduct::forward), x, w, rough_y, context);
    errors.output = run.squared_distance(rough_y, y);
    errors.loss_slope = run.inner_product(rough_y, dy) - run.inner_product(y, dy);
    if (format == formats_.back()) output_errors_[linear] = rough_y.sub(y).to(graph_.operand());
    const at::Tensor rough_dx = product("rough input gradient", tokens, inputs);
    quantized_input_gradient(rounding(LinearProduct::input_gradient), dy, w, rough_dx, false, context);
    errors.input_gradient = run.squared_distance(rough_dx, dx);
    const at::Tensor rough_dw = product("rough weight gradient", outputs, inputs);
    quantized_weight_gradient(rounding(LinearProduct::weight_gradient), dy, x, rough_dw, context);
    errors.weight_gradient = run.squared_distance(rough_dw, dw);
    errors.update = run.squared_update_change(parameter, adamw_, update_, dw, rough_dw);
  }
}

}  // namespace scalebits
