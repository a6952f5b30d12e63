#include "train/divergence_check.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace scalebits {
namespace {

std::vector<double> ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return values[x] < values[y]; });
  std::vector<double> rank(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first;
    while (end < order.size() && values[order[end]] == values[order[first]]) ++end;
    for (std::size_t i = first; i < end; ++i) rank[order[i]] = static_cast<double>(first + end - 1) / 2;
    first = end;
  }
  return rank;
}

double correlation(std::span<const double> a, std::span<const double> b) {
  const auto count = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / count;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / count;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a), bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0;
}

/// Σ_k |δu_k| / |W_k| between the gradients of `exact` and those the parameters hold.
double measured_weight_divergence(const SchemeQuestion& question, const PassRecord& exact) {
  double sum = 0;
  const auto& parameters = question.graph.parameters().all();
  for (std::size_t place = 0; place < parameters.size(); ++place) {
    const Parameter& parameter = parameters[place];
    if (!parameter.name.ends_with("_proj.weight")) continue;
    sum += std::sqrt(squared_update_change(parameter, question.adamw, question.update, exact.weight_gradients.at(place),
                                           parameter.gradient) /
                     squared_norm(parameter.value));
  }
  return sum;
}

}  // namespace

DivergenceCheck check_divergences(const SchemeQuestion& question, NumberFormat format,
                                  const std::vector<at::Tensor>& batches, const ProgressSink& progress) {
  const ModelSpec& spec = question.graph.spec();
  const SnipMeasurement measured = measure_step(question, {format});
  const WeightDivergences weights(spec, measured.statistics, measured.response);
  DivergenceCheck check{format, {}};
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) {
      const std::size_t linear = linear_index(spec, layer, kind);
      check.pairs.push_back({linear, loss_divergence(measured.statistics, measured.response, linear, format),
                             weights.of(layer, kind, LinearFormats::uniform(format))});
    }
  const PrecisionScheme exact = uniform_scheme(spec, NumberFormat::bf16);
  const auto count = static_cast<double>(batches.size());
  for (std::size_t batch = 0; batch < batches.size(); ++batch) {
    PassRecord record;  // its gradients alone
    const double base = question.graph.loss_and_gradients(batches[batch], exact, question.update.step).mean;
    record.keep_weight_gradients(question.graph.parameters());
    for (DivergencePair& pair : check.pairs) {
      if (interrupt_requested) fail(ErrorKind::interrupted, "stopped; nothing of the check is kept");
      PrecisionScheme scheme = exact;
      scheme[pair.linear] = LinearFormats::uniform(format);
      pair.loss +=
          (question.graph.loss_and_gradients(batches[batch], scheme, question.update.step).mean - base) / count;
      pair.weight += measured_weight_divergence(question, record) / count;
      if (progress)
        progress({.fraction = (static_cast<double>(batch) +
                               static_cast<double>(pair.linear) / static_cast<double>(check.pairs.size())) /
                              count,
                  .stage = "one layer at a time",
                  .detail = std::string(name_of(format))});
    }
  }
  return check;
}

double rank_correlation(std::span<const double> a, std::span<const double> b) {
  return correlation(ranks(a), ranks(b));
}

double explained_variance(std::span<const double> a, std::span<const double> b) {
  const double r = correlation(a, b);
  return r * r;
}

Json to_json(const ModelSpec& spec, const DivergenceCheck& check) {
  const auto column = [&](const std::function<double(const DivergencePair&)>& of) {
    std::vector<double> values;
    for (const DivergencePair& pair : check.pairs) values.push_back(of(pair));
    return values;
  };
  const auto loss = column([](const auto& p) { return std::fabs(p.loss); });
  const auto signed_loss = column([](const auto& p) { return p.loss; });
  const auto weight = column([](const auto& p) { return p.weight; });
  const auto fit = [](const std::vector<double>& predicted, const std::vector<double>& measured) {
    return Json{{"rank_correlation", rank_correlation(predicted, measured)},
                {"r_squared", explained_variance(predicted, measured)}};
  };
  Json json;
  json["format"] = std::string(name_of(check.format));
  json["fit"] = {
      {"loss", fit(column([](const auto& p) { return p.predicted_loss.total(); }), loss)},
      {"loss, signed",
       fit(column([](const auto& p) { return p.predicted_loss.first_order + p.predicted_loss.second_order; }),
           signed_loss)},
      {"loss, first order", fit(column([](const auto& p) { return std::fabs(p.predicted_loss.first_order); }), loss)},
      {"loss, second order", fit(column([](const auto& p) { return p.predicted_loss.second_order; }), loss)},
      {"weight", fit(column([](const auto& p) { return p.predicted_weight.total(); }), weight)},
      {"weight, own", fit(column([](const auto& p) { return p.predicted_weight.own; }), weight)},
      {"weight, upstream", fit(column([](const auto& p) { return p.predicted_weight.upstream; }), weight)},
      {"weight, forward", fit(column([](const auto& p) { return p.predicted_weight.forward; }), weight)}};
  json["layers"] = Json::array();
  const auto kinds = linear_kinds(spec);
  for (const DivergencePair& pair : check.pairs)
    json["layers"].push_back({{"name", linear_name(static_cast<std::int64_t>(pair.linear / kinds.size()),
                                                   kinds[pair.linear % kinds.size()])},
                              {"loss", pair.loss},
                              {"predicted_first_order", pair.predicted_loss.first_order},
                              {"predicted_second_order", pair.predicted_loss.second_order},
                              {"weight", pair.weight},
                              {"predicted_own", pair.predicted_weight.own},
                              {"predicted_upstream", pair.predicted_weight.upstream},
                              {"predicted_forward", pair.predicted_weight.forward}});
  return json;
}

}  // namespace scalebits
