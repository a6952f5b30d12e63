#include "train/noise_probes.h"

#include "core/error.h"
#include "core/random.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/sub.h>

#include <cmath>

namespace scalebits {
namespace {

class BackwardProbe : public StepObserver {
 public:
  BackwardProbe(const TrainArithmetic& run, const PassRecord& record, const Noise& relative, NoiseResponse& response)
      : run_(run), record_(record), relative_(relative), response_(response) {}
  void loss_gradient(const at::Tensor& dx) override {
    const double root_mean_square = std::sqrt(run_.squared_norm(dx) / static_cast<double>(dx.numel()));
    run_.add_noise(dx, {relative_.deviation * root_mean_square, relative_.key});
    above_ = dx.sub(record_.residual_gradients.at(0));
  }
  void site_gradient(std::int64_t layer, InputSite site, const at::Tensor& dx) override {
    response_.sites[{layer, site}] = run_.squared_distance(dx, record_.site_gradients.at({layer, site}));
  }
  void residual_gradient(std::int64_t layer, InputSite half, const at::Tensor& dx) override {
    const at::Tensor change = dx.sub(record_.residual_gradients.at(++place_));
    response_.halves[{layer, half}] = {.branch = run_.squared_distance(change, above_),
                                       .residual = run_.squared_norm(change)};
    above_ = change;
  }

 private:
  const TrainArithmetic& run_;
  const PassRecord& record_;
  Noise relative_;
  NoiseResponse& response_;
  at::Tensor above_;  // change of the residual stream's gradient behind the half that comes next
  std::size_t place_ = 0;
};

class ForwardProbe : public StepObserver {
 public:
  ForwardProbe(const TrainArithmetic& run, const PassRecord& record, const ErrorHalf& half, std::int64_t windows,
               NoiseResponse& response)
      : run_(run), record_(record), half_(half), windows_(windows), response_(response) {}
  void after_forward(std::size_t linear, const at::Tensor& y) override {
    for_each_disturbed(linear, [&](std::int64_t first, std::int64_t count) {
      y.narrow(0, first, count).add_(record_.output_errors.at(linear).narrow(0, first, count));
    });
  }
  void after_backward(std::size_t linear, ProductInput&, const at::Tensor& dy) override {
    double turned = 0;
    for_each_disturbed(linear, [&](std::int64_t first, std::int64_t count) {
      const at::Tensor error = record_.output_errors[linear].narrow(0, first, count);
      turned += run_.inner_product(dy.narrow(0, first, count), error) -
                run_.inner_product(record_.output_gradients.at(linear).narrow(0, first, count), error);
    });
    NoiseResponse::Linear& answer = response_.linears[linear];
    answer.forward_noise = run_.squared_norm(record_.output_errors[linear]);
    if (answer.forward_noise > 0) answer.curvature += turned / answer.forward_noise;
  }

 private:
  /// visit(first token, tokens) of each window whose outputs of this layer are off in this half.
  template <typename Visit>
  void for_each_disturbed(std::size_t linear, Visit&& visit) const {
    const std::int64_t length = record_.output_errors.at(linear).size(0) / windows_;
    for (std::int64_t window = 0; window < windows_; ++window)
      if (half_.contains(linear, window)) visit(window * length, length);
  }

  const TrainArithmetic& run_;
  const PassRecord& record_;
  ErrorHalf half_;
  std::int64_t windows_;
  NoiseResponse& response_;
};

}  // namespace

void PassRecord::after_backward(std::size_t linear, ProductInput&, const at::Tensor& dy) {
  output_gradients[linear] = dy.clone();
}
void PassRecord::site_gradient(std::int64_t layer, InputSite site, const at::Tensor& dx) {
  site_gradients[{layer, site}] = dx.clone();
}
void PassRecord::loss_gradient(const at::Tensor& dx) { residual_gradients.push_back(dx.clone()); }
void PassRecord::residual_gradient(std::int64_t, InputSite, const at::Tensor& dx) {
  residual_gradients.push_back(dx.clone());
}
void PassRecord::keep_weight_gradients(const Parameters& parameters) {
  for (const Parameter& parameter : parameters.all()) weight_gradients.push_back(parameter.gradient.clone());
}

bool ErrorHalf::contains(std::size_t linear, std::int64_t window) const {
  const CounterRng of_window(key, 16 + static_cast<std::uint64_t>(window));  // the backward probe's stream is 2
  return (of_window.bits(linear) >> 63 == 1) != second;
}

NoiseResponse probe_with_noise(TrainingGraph& graph, const at::Tensor& ids, const PassRecord& undisturbed,
                               const ProbeOptions& options) {
  const ModelSpec& spec = graph.spec();
  const TrainArithmetic& run = *graph.place().train;
  const PrecisionScheme exact = uniform_scheme(spec, NumberFormat::bf16);
  NoiseResponse response;
  response.linears.resize(linear_count(spec));
  const auto measure_updates = [&](double NoiseResponse::Linear::* field) {
    for (std::size_t place = 0; place < graph.parameters().all().size(); ++place) {
      const Parameter& parameter = graph.parameters().all()[place];
      for (std::int64_t layer = 0; layer < spec.layers; ++layer)
        for (const LinearKind kind : linear_kinds(spec))
          if (parameter.name == linear_name(layer, kind))
            response.linears[linear_index(spec, layer, kind)].*field += run.squared_update_change(
                parameter, options.adamw, options.update, undisturbed.weight_gradients.at(place), parameter.gradient);
    }
  };
  BackwardProbe backward(run, undisturbed, {options.noise, CounterRng(options.key, 2).bits(0)}, response);
  graph.loss_and_gradients(ids, exact, options.update.step, &backward);
  measure_updates(&NoiseResponse::Linear::backward_update);
  for (const bool second : {false, true}) {
    ForwardProbe forward(run, undisturbed, {options.key, second}, ids.size(0), response);
    graph.loss_and_gradients(ids, exact, options.update.step, &forward);
    measure_updates(&NoiseResponse::Linear::forward_update);
  }
  return response;
}

}  // namespace scalebits
