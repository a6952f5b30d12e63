#include "train/snip.h"

#include "core/error.h"
#include "core/random.h"
#include "train/ordered_schemes.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

namespace scalebits {
namespace {

class BothObservers : public StepObserver {
 public:
  BothObservers(StepObserver& first, StepObserver& second) : both_{&first, &second} {}
  void after_forward(std::size_t linear, const at::Tensor& y) override {
    for (StepObserver* one : both_) one->after_forward(linear, y);
  }
  void loss_gradient(const at::Tensor& dx) override {
    for (StepObserver* one : both_) one->loss_gradient(dx);
  }
  void after_backward(std::size_t linear, ProductInput& x, const at::Tensor& dy) override {
    for (StepObserver* one : both_) one->after_backward(linear, x, dy);
  }
  void site_gradient(std::int64_t layer, InputSite site, const at::Tensor& dx) override {
    for (StepObserver* one : both_) one->site_gradient(layer, site, dx);
  }
  void residual_gradient(std::int64_t layer, InputSite half, const at::Tensor& dx) override {
    for (StepObserver* one : both_) one->residual_gradient(layer, half, dx);
  }

 private:
  StepObserver* both_[2];
};

at::Tensor probed_windows(const SchemeQuestion& question) {
  const std::int64_t windows = question.ids.size(0);
  const std::int64_t wanted = question.options.probe_windows > 0 ? question.options.probe_windows : (windows + 1) / 2;
  return question.ids.narrow(0, 0, std::min(windows, wanted));
}

/// All numbers of a measurement, in an order that the model and the formats alone decide.
template <typename Visit>
void for_each_number(SnipMeasurement& measurement, Visit&& visit) {
  const auto visit_all = [&](std::initializer_list<double*> numbers) {
    for (double* const number : numbers) visit(*number);
  };
  visit(measurement.statistics.loss);
  for (LinearStatistics& l : measurement.statistics.linears) {
    visit_all({&l.input, &l.weight, &l.output, &l.gradient, &l.weight_gradient});
    for (auto& [format, e] : l.errors)
      visit_all({&e.input, &e.weight, &e.gradient, &e.output, &e.loss_slope, &e.input_gradient, &e.weight_gradient,
                 &e.update});
  }
  for (NoiseResponse::Linear& l : measurement.response.linears)
    visit_all({&l.curvature, &l.forward_noise, &l.forward_update, &l.backward_update});
  for (auto& [site, change] : measurement.response.sites) visit(change);
  for (auto& [place, half] : measurement.response.halves) visit_all({&half.branch, &half.residual});
}

SnipMeasurement zero_measurement(const ModelSpec& spec, const std::vector<NumberFormat>& formats) {
  SnipMeasurement zero;
  zero.statistics.linears.resize(linear_count(spec));
  for (LinearStatistics& linear : zero.statistics.linears)
    for (const NumberFormat format : formats) linear.errors[format] = {};
  zero.response.linears.resize(linear_count(spec));
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    for (const InputSite site : {InputSite::attention, InputSite::output, InputSite::mlp, InputSite::down})
      zero.response.sites[{layer, site}] = 0;
    for (const InputSite half : {InputSite::attention, InputSite::mlp}) zero.response.halves[{layer, half}] = {};
  }
  return zero;
}

enum class Depth { operands, step };

SnipMeasurement measure_micro_batch(const SchemeQuestion& question, const std::vector<NumberFormat>& formats,
                                    Depth depth, const MicroBatch& batch) {
  TrainingGraph& graph = question.graph();
  const bool whole = depth == Depth::step;
  SnipMeasurement measurement = zero_measurement(graph.spec(), formats);
  StatisticsCollector collector(graph, formats, question.adamw, question.update, !whole);
  PassRecord record;
  BothObservers both(collector, record);
  StepObserver& observer = whole ? static_cast<StepObserver&>(both) : collector;
  const PrecisionScheme exact = uniform_scheme(graph.spec(), NumberFormat::bf16);
  const double loss = graph.loss_and_gradients(batch.ids, exact, question.update.step, &observer).mean;
  measurement.statistics = std::move(collector.statistics());
  measurement.statistics.loss = loss;
  if (!whole) return measurement;
  record.output_errors = std::move(collector.output_errors());
  record.keep_weight_gradients(graph.parameters());
  const CounterRng keys(question.seed, 0x736e6970ull + static_cast<std::uint64_t>(batch.part));
  measurement.response = probe_with_noise(graph, batch.ids, record,
                                          {.noise = question.options.noise,
                                           .adamw = question.adamw,
                                           .update = question.update,
                                           .key = keys.bits(question.update.step)});
  return measurement;
}

/// The mean over the micro-batches of the probed windows, of each number by itself.
SnipMeasurement measure(const SchemeQuestion& question, const std::vector<NumberFormat>& formats, Depth depth) {
  SnipMeasurement measurement = zero_measurement(question.graph().spec(), formats);
  std::int64_t count = 0;
  for_each_number(measurement, [&](double&) { ++count; });
  const at::Tensor mean = question.passes.mean(probed_windows(question), {count}, [&](const MicroBatch& batch) {
    SnipMeasurement own = measure_micro_batch(question, formats, depth, batch);
    at::Tensor numbers = at::empty({count}, at::kDouble);
    auto* next = numbers.data_ptr<double>();
    for_each_number(own, [&](double& number) { *next++ = number; });
    SCALEBITS_ASSERT(next == numbers.data_ptr<double>() + count);
    return numbers;
  });
  const auto* next = mean.const_data_ptr<double>();
  for_each_number(measurement, [&](double& number) { number = *next++; });
  return measurement;
}

}  // namespace

SnipMeasurement measure_step(const SchemeQuestion& question, const std::vector<NumberFormat>& formats) {
  return measure(question, formats, Depth::step);
}

StepStatistics measure_operands(const SchemeQuestion& question, const std::vector<NumberFormat>& formats) {
  return measure(question, formats, Depth::operands).statistics;
}

std::vector<LinearFormats> scheme_options(NumberFormat high, NumberFormat low, bool per_product) {
  if (!per_product) return {LinearFormats::uniform(high), LinearFormats::uniform(low)};
  std::vector<LinearFormats> options;
  for (int bits = 0; bits < 8; ++bits)
    options.push_back({bits & 1 ? low : high, bits & 2 ? low : high, bits & 4 ? low : high});
  return options;
}

std::vector<std::vector<double>> snip_costs(const ModelSpec& spec, const SnipMeasurement& measurement,
                                            const std::vector<LinearFormats>& options, NumberFormat low,
                                            double weight_term) {
  const WeightDivergences weights(spec, measurement.statistics, measurement.response);
  const auto loss_of = [&](std::size_t linear, NumberFormat format) {
    return loss_divergence(measurement.statistics, measurement.response, linear, format).total();
  };
  double all_loss = 0, all_weight = 0;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) {
      all_loss += loss_of(linear_index(spec, layer, kind), low);
      all_weight += weights.of(layer, kind, LinearFormats::uniform(low)).total();
    }
  std::vector<std::vector<double>> costs;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) {
      auto& own = costs.emplace_back();
      for (const LinearFormats& option : options)
        own.push_back((all_loss > 0 ? loss_of(linear_index(spec, layer, kind), option.forward) / all_loss : 0) +
                      (all_weight > 0 ? weight_term * weights.of(layer, kind, option).total() / all_weight : 0));
    }
  return costs;
}

std::vector<std::vector<double>> operand_costs(const StepStatistics& statistics,
                                               const std::vector<LinearFormats>& options, bool relative) {
  std::vector<std::vector<double>> costs;
  for (const LinearStatistics& found : statistics.linears) {
    const auto term = [&](double error, double size) { return std::sqrt(relative && size > 0 ? error / size : error); };
    auto& own = costs.emplace_back();
    for (const LinearFormats& option : options) {
      if (!(option == LinearFormats::uniform(option.forward)))
        throw InternalError("operand errors tell formats of whole layers apart, not of their products");
      const FormatErrors& errors = found.errors.at(option.forward);
      own.push_back(term(errors.input, found.input) + term(errors.weight, found.weight) +
                    term(errors.gradient, found.gradient));
    }
  }
  return costs;
}

void require_feasible_share(const ModelSpec& spec, const std::vector<LinearFormats>& options, double share,
                            std::int64_t stages) {
  const std::vector<double> free(options.size(), 0.0);
  cheapest_scheme(spec, options, std::vector(linear_count(spec), free), share, stages);
}

PrecisionScheme cheapest_scheme(const ModelSpec& spec, const std::vector<LinearFormats>& options,
                                const std::vector<std::vector<double>>& costs, double share, std::int64_t stages) {
  PrecisionProgramme programme{
      .layers = {}, .flops = linear_flops(spec), .target_share = share, .stages = stages_of(spec, stages)};
  for (std::size_t linear = 0; linear < costs.size(); ++linear) {
    auto& layer = programme.layers.emplace_back();
    for (std::size_t o = 0; o < options.size(); ++o) {
      double fp4 = 0;
      for (const LinearProduct product : kLinearProducts)
        if (is_fp4(options[o].of(product))) fp4 += programme.flops[linear] / 3;
      layer.push_back({costs[linear][o], fp4});
    }
  }
  const PrecisionChoice choice = solve(programme);
  PrecisionScheme scheme;
  for (const std::size_t option : choice.options) scheme.push_back(options[option]);
  return scheme;
}

}  // namespace scalebits
