#include "train/divergence_check.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace scalebits {
namespace {

/// Updates differ far more between layers than between batches, the loss the other way round.
constexpr std::size_t kGradientBatches = 2;

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
  const auto& parameters = question.graph().parameters().all();
  const TrainArithmetic& run = *question.graph().place().train;
  for (std::size_t place = 0; place < parameters.size(); ++place) {
    const Parameter& parameter = parameters[place];
    if (!parameter.name.ends_with("_proj.weight")) continue;
    sum += std::sqrt(run.squared_update_change(parameter, question.adamw, question.update,
                                               exact.weight_gradients.at(place), parameter.gradient) /
                     run.squared_norm(parameter.value));
  }
  return sum;
}

LinearFormats only(LinearProduct product, NumberFormat format) {
  LinearFormats formats;
  (product == LinearProduct::forward          ? formats.forward
   : product == LinearProduct::input_gradient ? formats.input_gradient
                                              : formats.weight_gradient) = format;
  return formats;
}

}  // namespace

DivergenceCheck check_divergences(const SchemeQuestion& question, NumberFormat format,
                                  const std::vector<at::Tensor>& predicting, const std::vector<at::Tensor>& measuring,
                                  const ProgressSink& progress) {
  const ModelSpec& spec = question.graph().spec();
  DivergenceCheck check{format, std::vector<DivergencePair>(linear_count(spec))};
  for (const at::Tensor& ids : predicting) {
    SchemeQuestion asked = question;
    asked.ids = ids;
    const SnipMeasurement measured = measure_step(asked, {format});
    const WeightDivergences weights(spec, measured.statistics, measured.response);
    for (std::int64_t layer = 0; layer < spec.layers; ++layer)
      for (const LinearKind kind : linear_kinds(spec)) {
        const std::size_t linear = linear_index(spec, layer, kind);
        DivergencePair& pair = check.pairs[linear];
        pair.linear = linear;
        pair.predicted_loss.push_back(loss_divergence(measured.statistics, measured.response, linear, format));
        pair.predicted_weight.push_back(weights.of(layer, kind, LinearFormats::uniform(format)));
        pair.errors.push_back(measured.statistics.linears[linear].errors.at(format));
        pair.responses.push_back(measured.response.linears[linear]);
      }
  }
  const PrecisionScheme exact = uniform_scheme(spec, NumberFormat::bf16);
  const auto passes = static_cast<double>(measuring.size() * check.pairs.size());
  double made = 0;
  for (const at::Tensor& ids : measuring) {
    const bool with_gradients = made < static_cast<double>(kGradientBatches * check.pairs.size());
    PassRecord record;  // its gradients alone
    const auto loss_of = [&](const PrecisionScheme& scheme) {
      if (!with_gradients) return question.graph().loss(ids, scheme).mean;
      return question.graph().loss_and_gradients(ids, scheme, question.update.step).mean;
    };
    const double base = loss_of(exact);
    if (with_gradients) record.keep_weight_gradients(question.graph().parameters());
    for (DivergencePair& pair : check.pairs) {
      if (interrupt_requested) fail(ErrorKind::interrupted, "stopped; nothing of the check is kept");
      PrecisionScheme scheme = exact;
      scheme[pair.linear] = LinearFormats::uniform(format);
      pair.loss.push_back(loss_of(scheme) - base);
      if (with_gradients) {
        pair.weight.push_back(measured_weight_divergence(question, record));
        for (const LinearProduct product : kLinearProducts) {
          scheme[pair.linear] = only(product, format);
          loss_of(scheme);
          pair.weight_of[product].push_back(measured_weight_divergence(question, record));
        }
      }
      if (progress)
        progress({.fraction = ++made / passes, .stage = "one layer at a time", .detail = std::string(name_of(format))});
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

double slope(std::span<const double> a, std::span<const double> b) {
  double ab = 0, aa = 0;
  for (std::size_t i = 0; i < a.size(); ++i) ab += a[i] * b[i], aa += a[i] * a[i];
  return aa > 0 ? ab / aa : 0;
}

double split_half_reliability(const std::vector<std::vector<double>>& values) {
  std::vector<double> halves[2];
  for (const std::vector<double>& of_layer : values)
    for (std::size_t half = 0; half < 2; ++half) {
      double sum = 0;
      for (std::size_t i = half; i < of_layer.size(); i += 2) sum += of_layer[i];
      halves[half].push_back(sum / static_cast<double>((of_layer.size() + 1 - half) / 2));
    }
  const double r = rank_correlation(halves[0], halves[1]);
  return 2 * r / (1 + r);
}

Json to_json(const ModelSpec& spec, const DivergenceCheck& check) {
  using Pair = DivergencePair;
  const auto each = [](const auto& items, const auto& of) {
    std::vector<double> values;
    for (const auto& item : items) values.push_back(static_cast<double>(of(item)));
    return values;
  };
  const auto mean = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  const auto loss = [&](double (*of)(const LossDivergence&)) {
    return each(check.pairs, [&](const Pair& pair) { return mean(each(pair.predicted_loss, of)); });
  };
  const auto weight = [&](double (*of)(const WeightDivergence&)) {
    return each(check.pairs, [&](const Pair& pair) { return mean(each(pair.predicted_weight, of)); });
  };
  std::vector<std::vector<double>> losses, weights;
  std::map<LinearProduct, std::vector<double>> weight_of;
  for (const Pair& pair : check.pairs) {
    losses.push_back(pair.loss), weights.push_back(pair.weight);
    for (const auto& [product, values] : pair.weight_of) weight_of[product].push_back(mean(values));
  }
  const auto measured_loss = each(losses, mean), measured_weight = each(weights, mean);
  const auto fit = [](const std::vector<double>& predicted, const std::vector<double>& measured) {
    return Json{{"rank_correlation", rank_correlation(predicted, measured)},
                {"r_squared", explained_variance(predicted, measured)},
                {"slope", slope(predicted, measured)}};
  };
  Json json;
  json["format"] = std::string(name_of(check.format));
  json["fit"] = {
      {"loss", fit(loss([](const auto& p) { return p.total(); }), measured_loss)},
      {"loss, first order", fit(loss([](const auto& p) { return p.first_order; }), measured_loss)},
      {"weight", fit(weight([](const auto& p) { return p.total(); }), measured_weight)},
      {"weight, own", fit(weight([](const auto& p) { return p.own; }), weight_of[LinearProduct::weight_gradient])},
      {"weight, upstream",
       fit(weight([](const auto& p) { return p.upstream; }), weight_of[LinearProduct::input_gradient])},
      {"weight, forward", fit(weight([](const auto& p) { return p.forward; }), weight_of[LinearProduct::forward])}};
  if (!losses.empty() && losses[0].size() > 1)
    json["reliability"] = {{"loss", split_half_reliability(losses)}, {"weight", split_half_reliability(weights)}};
  json["layers"] = Json::array();
  const auto kinds = linear_kinds(spec);
  for (const Pair& pair : check.pairs) {
    const auto layer = static_cast<std::int64_t>(pair.linear / kinds.size());
    const LinearKind kind = kinds[pair.linear % kinds.size()];
    const auto of_errors = [&](double FormatErrors::* field) {
      return each(pair.errors, [&](const FormatErrors& errors) { return errors.*field; });
    };
    const auto of_response = [&](double NoiseResponse::Linear::* field) {
      return each(pair.responses, [&](const NoiseResponse::Linear& response) { return response.*field; });
    };
    json["layers"].push_back(
        {{"name", linear_name(layer, kind)},
         {"operations", product_flops(spec, kind)},
         {"loss", pair.loss},
         {"weight", pair.weight},
         {"weight_own", pair.weight_of.at(LinearProduct::weight_gradient)},
         {"weight_upstream", pair.weight_of.at(LinearProduct::input_gradient)},
         {"weight_forward", pair.weight_of.at(LinearProduct::forward)},
         {"predicted_first_order", each(pair.predicted_loss, [](const auto& p) { return p.first_order; })},
         {"predicted_second_order", each(pair.predicted_loss, [](const auto& p) { return p.second_order; })},
         {"predicted_own", each(pair.predicted_weight, [](const auto& p) { return p.own; })},
         {"predicted_upstream", each(pair.predicted_weight, [](const auto& p) { return p.upstream; })},
         {"predicted_forward", each(pair.predicted_weight, [](const auto& p) { return p.forward; })},
         {"output_error", of_errors(&FormatErrors::output)},
         {"curvature", of_response(&NoiseResponse::Linear::curvature)},
         {"forward_noise", of_response(&NoiseResponse::Linear::forward_noise)},
         {"forward_update", of_response(&NoiseResponse::Linear::forward_update)}});
  }
  return json;
}

}  // namespace scalebits
