// train: what SNIP measures is what a direct computation finds: statistics against the tensors themselves, probes
// against the noise they add, costs and schemes against their definition.
#include "train/ordered_schemes.h"
#include "train/snip.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "tiny_models.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace scalebits {
namespace {

struct Setting {
  Parameters parameters;
  TrainingGraph graph;
  ProcessGroup alone;
  SharedPasses passes;
  AdamWOptions adamw;
  SchemeOptions options;
  at::Tensor ids;

  explicit Setting(std::int64_t micro_batches = 1)
      : parameters(Parameters::random(spec(), 3)), graph(parameters, {.operand = at::kFloat, .seed = 2}),
        passes(graph, alone, micro_batches) {
    set_thread_count(1);  // passes of a millisecond, for which threads would only wait
    const CounterRng rng(5);
    ids = at::empty({4, 24}, at::kLong);
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), 48));
    for (Parameter& parameter : parameters.all()) {
      parameter.value.mul_(5);  // attention that is not flat
      parameter.square.fill_(1e-6);
    }
    options.kind = SchemeKind::snip;
    options.probe_windows = 4;
  }
  static ModelSpec spec() {
    ModelSpec spec = testing_models::tiny_spec(Family::llama);
    spec.layers = 3, spec.tied_head = true;
    return spec;
  }
  SchemeQuestion question() { return {passes, options, adamw, {.rate = 1e-3, .step = 10}, ids, 7}; }
};

double norm_squared(const at::Tensor& tensor) { return tensor.to(at::kDouble).square().sum().item<double>(); }

TEST(TensorSums, AreThoseOfTorch) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = at::randn({37, 1003}).to(type), b = at::randn({37, 1003});
    const at::Tensor exact_a = a.to(at::kDouble), exact_b = b.to(at::kDouble);
    const double products = exact_a.mul(exact_b).sum().item<double>(), size = norm_squared(a);
    // Sums of 1024 f32 terms err by a few epsilon of the terms' size, whose sum is that of the squares.
    const double tolerance = 64 * 0x1p-24 * size;
    EXPECT_NEAR(squared_norm(a), size, tolerance);
    EXPECT_NEAR(inner_product(a, b), products, tolerance);
    EXPECT_NEAR(squared_distance(a, b), norm_squared(exact_a.sub(exact_b)), 4 * tolerance);
  }
}

TEST(TensorSums, NoiseHasItsDeviationAndIsMadeAgain) {
  const at::Tensor before = at::randn({64, 999}), after = before.clone();
  const Noise noise{0.25, 0x1234567812345678ull};
  add_noise(after, noise);
  const double count = static_cast<double>(before.numel());
  const at::Tensor added = after.sub(before);
  // Five standard errors of a mean and of a mean square.
  EXPECT_NEAR(added.mean().item<double>(), 0, 5 * 0.25 / std::sqrt(count));
  EXPECT_NEAR(norm_squared(added) / count, 0.0625, 5 * 0.0625 * std::sqrt(2 / count));
  const at::Tensor again = before.clone(), other = before.clone();
  add_noise(again, noise), add_noise(other, {0.25, 1});
  EXPECT_TRUE(at::equal(again, after));
  EXPECT_NEAR(inner_product(other.sub(before), added), 0, 5 * 0.0625 * std::sqrt(count));
}

TEST(StepStatistics, AreADirectComputation) {
  struct Recorder : StepObserver {
    std::vector<at::Tensor> x, dy, y;
    void after_forward(std::size_t, const at::Tensor& out) override { y.push_back(out.clone()); }
    void after_backward(std::size_t linear, ProductInput& input, const at::Tensor& gradient) override {
      x.resize(21), dy.resize(21);
      x[linear] = input.exact().clone(), dy[linear] = gradient.clone();
    }
  };
  Setting s;
  const SnipMeasurement measured = measure_step(s.question(), {NumberFormat::fp8, NumberFormat::fp4});
  Recorder recorder;
  s.graph.loss_and_gradients(s.ids, uniform_scheme(s.parameters.spec(), NumberFormat::bf16), 10, &recorder);
  for (std::int64_t layer = 0; layer < 3; ++layer)
    for (const LinearKind kind : kLinearKinds) {
      const std::size_t linear = linear_index(s.parameters.spec(), layer, kind);
      const LinearStatistics& found = measured.statistics.linears[linear];
      const at::Tensor &w = s.parameters.of_linear(layer, kind).value, &x = recorder.x[linear];
      const auto expect_near = [&](double value, double wanted) {
        EXPECT_NEAR(value, wanted, 1e-4 * std::fabs(wanted)) << linear_name(layer, kind);
      };
      expect_near(found.input, norm_squared(x));
      expect_near(found.weight, norm_squared(w));
      expect_near(found.output, norm_squared(recorder.y[linear]));
      expect_near(found.gradient, norm_squared(recorder.dy[linear]));
      expect_near(found.weight_gradient, norm_squared(s.parameters.of_linear(layer, kind).gradient));
      const at::Tensor &dy = recorder.dy[linear], &dw = s.parameters.of_linear(layer, kind).gradient;
      for (const NumberFormat format : {NumberFormat::fp8, NumberFormat::fp4}) {
        const FormatErrors& errors = found.errors.at(format);
        const auto rough = [&](const at::Tensor& exact, FakeQuantize how) {
          how.format = format;
          at::Tensor out = at::empty_like(exact);
          fake_quantize(how, exact.const_data_ptr<float>(), exact.size(0), exact.size(1), out.data_ptr<float>());
          return out;
        };
        const auto rough_gradient = [&](LinearProduct product, Tiling tiling) {
          return rough(
              dy,
              {.tiling = tiling, .stochastic = is_fp4(format), .key = s.graph.rounding_key(~10ull, linear, product)});
        };
        const at::Tensor rough_x = rough(x, {}), rough_w = rough(w, {.is_weight = true});
        const at::Tensor rough_dy = rough_gradient(LinearProduct::input_gradient, Tiling::along_rows);
        const at::Tensor rough_dw = rough_gradient(LinearProduct::weight_gradient, Tiling::down_columns)
                                        .t()
                                        .matmul(rough(x, {.tiling = Tiling::down_columns}));
        const at::Tensor change = rough_x.matmul(rough_w.t()).sub(x.matmul(w.t()));
        expect_near(errors.input, norm_squared(rough_x.sub(x)));
        expect_near(errors.weight, norm_squared(rough_w.sub(w)));
        expect_near(errors.gradient, norm_squared(rough_dy.sub(dy)));
        // Products of f32 differ by their rounding, 2^-24 of the terms, beside which FP8's errors are 2^-5.
        const auto expect_product = [&](double value, double wanted) {
          EXPECT_NEAR(value, wanted, 1e-3 * wanted) << linear_name(layer, kind) << " " << name_of(format);
        };
        expect_product(errors.output, norm_squared(change));
        expect_product(errors.input_gradient, norm_squared(rough_dy.matmul(rough_w).sub(dy.matmul(w))));
        expect_product(errors.weight_gradient, norm_squared(rough_dw.sub(dw)));
        expect_product(errors.update, squared_update_change(s.parameters.of_linear(layer, kind), s.adamw,
                                                            s.question().update, dw, rough_dw));
        EXPECT_NEAR(errors.loss_slope, change.mul(dy).sum().item<double>(),
                    1e-3 * std::sqrt(errors.output * found.gradient));
      }
    }
}

TEST(AdamW, UpdateChangeIsThatOfTwoUpdates) {
  Setting s;
  Parameter& parameter = s.parameters.of_linear(1, LinearKind::up);
  parameter.mean.normal_(0, 1e-3);
  const at::Tensor gradient = at::randn_like(parameter.value).mul(1e-3), changed = gradient.add(1e-4);
  const AdamWStep step{.rate = 1e-3, .step = 10, .gradient_scale = 0.5};
  const double found = squared_update_change(parameter, s.adamw, step, gradient, changed);
  const auto updated = [&](const at::Tensor& with) {
    Setting fresh;
    Parameter& own = fresh.parameters.of_linear(1, LinearKind::up);
    own.mean.copy_(parameter.mean), own.gradient.copy_(with), own.value.zero_();
    adamw_update(fresh.parameters, s.adamw, step);
    return own.value.clone();
  };
  const double wanted = norm_squared(updated(changed).sub(updated(gradient)));
  EXPECT_NEAR(found, wanted, 1e-4 * wanted);
}

TEST(Probes, CurvatureIsThatOfTheLoss) {
  // With the outputs of a half off by their errors e the loss is higher by Σ <g, e> + ½ Σ <e, Δg> over that half, but
  // for third order. Both halves make up every window of every layer, once: what is left over of the two rises' sum
  // must be small beside the second order, and shrink eightfold when all errors are halved.
  Setting s;
  const PrecisionScheme exact = uniform_scheme(s.parameters.spec(), NumberFormat::bf16);
  for (std::uint64_t step = 0; step < 40; ++step) {
    s.graph.loss_and_gradients(s.ids, exact, step);
    adamw_update(s.parameters, s.adamw, {.rate = 0.01, .step = step + 100});
  }
  StatisticsCollector collector(s.graph, {NumberFormat::fp4}, s.adamw, {.rate = 1e-3, .step = 10});
  s.graph.loss_and_gradients(s.ids, exact, 0, &collector);
  PassRecord record;
  const double base = s.graph.loss_and_gradients(s.ids, exact, 0, &record).mean;
  record.keep_weight_gradients(s.parameters);
  struct Disturb : StepObserver {
    const std::vector<at::Tensor>& errors;
    ErrorHalf half;
    std::int64_t windows;
    Disturb(const std::vector<at::Tensor>& all, const ErrorHalf& of, std::int64_t count)
        : errors(all), half(of), windows(count) {}
    void after_forward(std::size_t linear, const at::Tensor& y) override {
      const auto of_windows = y.view({windows, -1, y.size(1)}), error = errors[linear].view(of_windows.sizes());
      for (std::int64_t window = 0; window < windows; ++window)
        if (half.contains(linear, window)) of_windows[window].add_(error[window]);
    }
  };
  double second_order = 0, left_over[2] = {};
  for (int scale = 0; scale < 2; ++scale) {
    record.output_errors.clear();
    for (const at::Tensor& error : collector.output_errors())
      record.output_errors.push_back(error.mul(scale ? 0.05 : 0.1));
    const ProbeOptions options{.adamw = s.adamw, .update = {.rate = 1e-3, .step = 10}, .key = 5};
    double rise = 0;
    for (const bool half : {false, true}) {
      Disturb disturb(record.output_errors, {options.key, half}, s.ids.size(0));
      rise += s.graph.loss_and_gradients(s.ids, exact, 0, &disturb).mean - base;
    }
    const NoiseResponse response = probe_with_noise(s.graph, s.ids, record, options);
    double first = 0, second = 0;
    for (std::size_t linear = 0; linear < exact.size(); ++linear) {
      first += inner_product(record.output_gradients.at(linear), record.output_errors[linear]);
      second += 0.5 * response.linears[linear].curvature * response.linears[linear].forward_noise;
    }
    left_over[scale] = rise - first - second;
    if (scale == 0) second_order = second;
  }
  EXPECT_LT(std::fabs(left_over[0]), 0.25 * std::fabs(second_order));
  EXPECT_LT(std::fabs(left_over[1]), std::fabs(left_over[0]) / 4);
}

TEST(Probes, EveryWindowOfALayerIsInOneHalf) {
  std::int64_t first = 0, layers_alike = 0;
  for (std::size_t linear = 0; linear < 200; ++linear)
    for (std::int64_t window = 0; window < 8; ++window) {
      const bool here = ErrorHalf{7, false}.contains(linear, window);
      EXPECT_NE(here, (ErrorHalf{7, true}.contains(linear, window)));
      first += here;
      layers_alike += here == ErrorHalf{7, false}.contains(linear + 1, window);
    }
  // 1600 fair draws: 800 ± 20.
  EXPECT_NEAR(static_cast<double>(first), 800, 100);
  EXPECT_NEAR(static_cast<double>(layers_alike), 800, 100);
}

TEST(Probes, MicroBatchesAreMeasuredByThemselves) {
  Setting whole, halves(2);
  const SnipMeasurement both = measure_step(halves.question(), {NumberFormat::fp8, NumberFormat::fp4});
  double loss = 0, input = 0;
  for (const std::int64_t first : {0, 2}) {
    SchemeQuestion question = whole.question();
    question.ids = whole.ids.narrow(0, first, 2).contiguous();
    const SnipMeasurement one = measure_step(question, {NumberFormat::fp8, NumberFormat::fp4});
    loss += one.statistics.loss / 2, input += one.statistics.linears[4].input / 2;
  }
  EXPECT_DOUBLE_EQ(both.statistics.loss, loss);
  EXPECT_DOUBLE_EQ(both.statistics.linears[4].input, input);
}

TEST(Snip, ChoosesTheCheapestSchemeThatMeetsTheShare) {
  Setting s;
  const ModelSpec& spec = s.parameters.spec();
  for (const bool per_product : {false, true})
    for (const double share : {0.25, 0.5, 0.75}) {
      s.options.per_product = per_product, s.options.fp4_share = share;
      const PrecisionScheme scheme = ask_for_scheme(s.question())();
      EXPECT_GE(fp4_share(spec, scheme), share - 1e-9);
      const auto options = scheme_options(NumberFormat::fp8, NumberFormat::fp4, per_product);
      const SnipMeasurement measured = measure_step(s.question(), {NumberFormat::fp8, NumberFormat::fp4});
      const auto costs = snip_costs(spec, measured, options, NumberFormat::fp4, s.options.weight_term);
      const auto cost_of = [&](const PrecisionScheme& of) {
        double sum = 0;
        for (std::size_t linear = 0; linear < of.size(); ++linear)
          sum +=
              costs[linear]
                   [static_cast<std::size_t>(std::find(options.begin(), options.end(), of[linear]) - options.begin())];
        return sum;
      };
      for (std::uint64_t seed = 0; seed < 20; ++seed)
        EXPECT_LE(cost_of(scheme), cost_of(fill_in_order(spec, random_order(spec, seed), NumberFormat::fp8,
                                                         NumberFormat::fp4, share, 1)) +
                                       1e-6);
    }
}

TEST(Snip, ACurvatureFoundNegativeIsNotFree) {
  Setting s;
  const SnipMeasurement measured = measure_step(s.question(), {NumberFormat::fp4});
  NoiseResponse response = measured.response;
  for (std::size_t linear = 0; linear < response.linears.size(); ++linear) {
    const double before = loss_divergence(measured.statistics, response, linear, NumberFormat::fp4).total();
    EXPECT_GT(before, 0);
    response.linears[linear].curvature *= -1;
    EXPECT_EQ(loss_divergence(measured.statistics, response, linear, NumberFormat::fp4).total(), before);
    EXPECT_EQ(loss_divergence(measured.statistics, response, linear, NumberFormat::bf16).total(), 0);
  }
  // All of them are turned by now: the weights' divergence is as it was, too.
  const ModelSpec& spec = s.parameters.spec();
  const WeightDivergences before(spec, measured.statistics, measured.response);
  const WeightDivergences turned(spec, measured.statistics, response);
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) {
      const LinearFormats fp4 = LinearFormats::uniform(NumberFormat::fp4);
      EXPECT_GT(turned.of(layer, kind, fp4).forward, 0);
      EXPECT_EQ(turned.of(layer, kind, fp4).forward, before.of(layer, kind, fp4).forward);
    }
}

TEST(Snip, RulesPerProductGiveLowPrecisionToGradientsFirst) {
  Setting s;
  const ModelSpec& spec = s.parameters.spec();
  for (const double share : {0.1, 0.5, 2.0 / 3, 0.8, 1.0}) {
    const PrecisionScheme scheme =
        fill_in_order(spec, order_by_layer_index(spec), NumberFormat::fp8, NumberFormat::fp4, share, 1, true);
    double found = fp4_share(spec, scheme), largest = 0;
    for (const double flops : linear_flops(spec)) largest = std::max(largest, flops);
    const std::vector<double> all = linear_flops(spec);
    EXPECT_GE(found, share - 1e-9);
    EXPECT_LE(found, share + largest / 3 / std::accumulate(all.begin(), all.end(), 0.0) + 1e-9);
    bool forward = false, all_gradients = true;
    for (const LinearFormats& formats : scheme) {
      forward = forward || is_fp4(formats.forward);
      all_gradients = all_gradients && is_fp4(formats.input_gradient) && is_fp4(formats.weight_gradient);
    }
    EXPECT_EQ(forward, share > 0.7);
    EXPECT_EQ(all_gradients, share > 0.6);
  }
}

TEST(Snip, EveryRuleMeetsTheShareInEachStage) {
  Setting s;
  const ModelSpec& spec = s.parameters.spec();
  s.options.fp4_share = 0.5, s.options.stages = 3;
  const std::vector<int> stage = stages_of(spec, 3);
  const std::vector<double> flops = linear_flops(spec);
  for (const SchemeKind kind : {SchemeKind::snip, SchemeKind::absolute_error, SchemeKind::relative_error,
                                SchemeKind::layer_index, SchemeKind::layer_type, SchemeKind::random}) {
    s.options.kind = kind;
    const PrecisionScheme scheme = ask_for_scheme(s.question())();
    double fp4[3] = {}, all[3] = {};
    for (std::size_t linear = 0; linear < scheme.size(); ++linear) {
      all[stage[linear]] += flops[linear];
      if (is_fp4(scheme[linear].forward)) fp4[stage[linear]] += flops[linear];
    }
    for (int i = 0; i < 3; ++i) EXPECT_GE(fp4[i] / all[i], 0.5 - 1e-9) << static_cast<int>(kind);
  }
  s.options.low = "fp8";
  for (const SchemeKind kind : {SchemeKind::snip, SchemeKind::random}) {
    s.options.kind = kind;
    EXPECT_THROW(ask_for_scheme(s.question())(), Error);
  }
}

}  // namespace
}  // namespace scalebits
