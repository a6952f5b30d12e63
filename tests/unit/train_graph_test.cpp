// train: one step's loss and gradients. In full precision they are the graph room's, and finite differences for what it
// does not have; with products in low precision they are those of an independent recipe in Python (step.safetensors of
// tools/golden/training_golden.py). A scheme says what it means and is read back as it was written.
#include "train/training_graph.h"

#include "core/error.h"
#include "core/random.h"
#include "graph/decoder.h"
#include "safetensors/safetensors.h"
#include "tiny_models.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace scalebits {
namespace {

ModelSpec small_spec(bool tied) {
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  spec.tied_head = tied;
  return spec;
}

/// As the formula of tools/golden/training_golden.py.
float formula(std::uint64_t tensor, std::uint64_t index, float scale, float offset) {
  std::uint64_t bits = (index * 2654435761ull + 977 * (tensor + 1)) & 0xffffffffull;
  bits = ((bits ^ (bits >> 15)) * 2246822519ull) & 0xffffffffull;
  return (static_cast<float>(bits >> 22) / 1024 - 0.5f) * scale + offset;
}

void fill_by_formula(Parameters& parameters) {
  std::vector<Parameter*> sorted;
  for (Parameter& parameter : parameters.all()) sorted.push_back(&parameter);
  std::sort(sorted.begin(), sorted.end(), [](const Parameter* a, const Parameter* b) { return a->name < b->name; });
  for (std::size_t tensor = 0; tensor < sorted.size(); ++tensor)
    for (std::int64_t i = 0; i < sorted[tensor]->value.numel(); ++i)
      sorted[tensor]->value.data_ptr<float>()[i] =
          formula(tensor, static_cast<std::uint64_t>(i), 0.5f, sorted[tensor]->value.dim() == 1 ? 1.0f : 0.0f);
}

at::Tensor ids_by_formula(std::int64_t windows, std::int64_t length, std::int64_t vocab) {
  at::Tensor ids = at::empty({windows, length}, at::kLong);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(formula(1000, static_cast<std::uint64_t>(i), 1, 0.5f) * static_cast<float>(vocab));
  return ids;
}

TEST(TrainingGraph, InFullPrecisionIsTheGraphRoomsDecoder) {
  struct Recorder : PassObserver {
    std::map<std::string, at::Tensor> gradients;
    void linear_gradient(std::int64_t layer, LinearKind kind, const at::Tensor& gradient) override {
      gradients[linear_name(layer, kind)] = gradient.clone();
    }
    bool wants_embedding_gradient() const override { return true; }
    void embedding_gradient(const at::Tensor& gradient) override {
      gradients[std::string(kEmbeddingName)] = gradient.clone();
    }
    void head_gradient(const at::Tensor& gradient) override { gradients[std::string(kHeadName)] = gradient.clone(); }
  };
  for (const bool tied : {false, true})
    for (const at::ScalarType operand : {at::kFloat, at::kBFloat16}) {
      Parameters parameters(Parameters::random(small_spec(tied), 3));
      fill_by_formula(parameters);
      const at::Tensor ids = ids_by_formula(3, 20, parameters.spec().vocab);
      TrainingGraph graph(parameters, {.operand = operand});
      const LossResult loss = graph.loss_and_gradients(ids, uniform_scheme(parameters.spec(), NumberFormat::bf16), 0);
      Decoder decoder(parameters.spec(), parameters, {operand == at::kFloat ? Compute::f32 : Compute::bf16});
      Recorder recorder;
      EXPECT_EQ(loss.token_losses, decoder.loss_and_gradients(ids, {}, recorder).token_losses);
      EXPECT_EQ(recorder.gradients.size(), linear_count(parameters.spec()) + (tied ? 1 : 2));
      for (const auto& [name, gradient] : recorder.gradients)
        EXPECT_TRUE(at::equal(parameters.at(name).gradient, gradient)) << name;
      EXPECT_EQ(graph.loss(ids, uniform_scheme(parameters.spec(), NumberFormat::bf16)).mean, loss.mean);
    }
}

/// The loss along each parameter's own gradient: a central difference of step h errs by h² times the third derivative
/// and by the loss' rounding over h; both are far below the 2% allowed for a slope of the gradient's length.
void expect_slope(TrainingGraph& graph, const at::Tensor& ids, const PrecisionScheme& scheme, Parameter& parameter) {
  const at::Tensor direction = parameter.gradient.div(parameter.gradient.norm());
  const at::Tensor start = parameter.value.clone();
  constexpr double kStep = 2e-3;
  double losses[2];
  for (const int side : {0, 1}) {
    parameter.value.copy_(start.add(direction, side == 0 ? -kStep : kStep));
    losses[side] = graph.loss(ids, scheme).mean;
  }
  parameter.value.copy_(start);
  const double slope = (losses[1] - losses[0]) / (2 * kStep), wanted = parameter.gradient.norm().item<double>();
  EXPECT_NEAR(slope, wanted, 0.02 * wanted + 1e-4) << parameter.name;
}

TEST(TrainingGraph, GradientsAreSlopesWhereTheLossIsSmooth) {
  Parameters parameters(Parameters::random(small_spec(false), 3));
  fill_by_formula(parameters);
  const at::Tensor ids = ids_by_formula(3, 20, parameters.spec().vocab);
  TrainingGraph graph(parameters, {.operand = at::kFloat});
  PrecisionScheme scheme = uniform_scheme(parameters.spec(), NumberFormat::bf16);
  graph.loss_and_gradients(ids, scheme, 0);
  for (Parameter& parameter : parameters.all()) expect_slope(graph, ids, scheme, parameter);
  // Behind the last quantised product the loss is smooth in low precision, too.
  scheme = uniform_scheme(parameters.spec(), NumberFormat::fp4);
  graph.loss_and_gradients(ids, scheme, 0);
  expect_slope(graph, ids, scheme, parameters.at(std::string(kFinalNormName)));
  expect_slope(graph, ids, scheme, parameters.at(std::string(kHeadName)));
}

TEST(TrainingGraph, InLowPrecisionIsThePythonRecipe) {
  const auto file = SafetensorsFile::open(std::string(SCALEBITS_SOURCE_DIR) + "/tests/data/train/step.safetensors");
  ModelSpec spec;
  spec.layers = 2, spec.hidden = 136, spec.intermediate = 144, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 8;
  spec.vocab = 64, spec.max_positions = 64, spec.tied_head = true;
  Parameters parameters(Parameters::random(spec, 0));
  fill_by_formula(parameters);
  PrecisionScheme scheme;
  for (const Json& layer : parse_json(file.metadata().at("scheme"), "golden scheme"))
    for (const Json& text : layer) scheme.push_back(formats_from_text(text.get<std::string>()));
  TrainingGraph graph(parameters, {.operand = at::kFloat, .seed = 11});
  const LossResult loss = graph.loss_and_gradients(ids_by_formula(3, 50, 64), scheme, 5);
  // Both are f32 sums in different orders, about 1e-6 apart; now and then that carries a number over a rounding border
  // of its grid, and one of the 150 x 136 terms of a sum moves by a step. Quantisation itself moves these gradients by
  // 5 to 30%.
  EXPECT_NEAR(loss.mean, std::stod(file.metadata().at("loss")), 1e-3);
  for (const Parameter& parameter : parameters.all()) {
    const SafetensorsEntry& entry = file.entry("gradient." + parameter.name);
    const auto* const wanted = reinterpret_cast<const float*>(entry.bytes.data());
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < entry.bytes.size() / 4; ++i) {
      const double found = parameter.gradient.data_ptr<float>()[7 * i];
      difference += (found - wanted[i]) * (found - wanted[i]), norm += static_cast<double>(wanted[i]) * wanted[i];
    }
    EXPECT_LE(std::sqrt(difference / norm), 5e-3) << parameter.name;
  }
}

TEST(TrainingGraph, RepeatsItselfButForTheDrawsOfAStep) {
  Parameters parameters(Parameters::random(small_spec(true), 1));
  const at::Tensor ids = ids_by_formula(2, 16, parameters.spec().vocab);
  TrainingGraph graph(parameters, {.seed = 4});
  const auto gradient = [&](NumberFormat format, std::uint64_t step) {
    graph.loss_and_gradients(ids, uniform_scheme(parameters.spec(), format), step);
    return parameters.of_linear(0, LinearKind::up).gradient.clone();
  };
  EXPECT_TRUE(at::equal(gradient(NumberFormat::fp4, 7), gradient(NumberFormat::fp4, 7)));
  EXPECT_FALSE(at::equal(gradient(NumberFormat::fp4, 7), gradient(NumberFormat::fp4, 8)));
  EXPECT_TRUE(at::equal(gradient(NumberFormat::fp8, 7), gradient(NumberFormat::fp8, 8)));
}

TEST(TrainingGraph, RefusesOtherModels) {
  for (const Family family : {Family::qwen2, Family::qwen3, Family::opt})
    EXPECT_THROW(require_trainable(testing_models::tiny_spec(family), "model"), Error);
  require_trainable(testing_models::tiny_spec(Family::mistral), "model");
}

TEST(PrecisionScheme, CountsOperationsAndIsReadBack) {
  const ModelSpec spec = small_spec(false);
  PrecisionScheme scheme = uniform_scheme(spec, NumberFormat::fp8);
  EXPECT_EQ(fp4_share(spec, scheme), 0);
  // down is 64 of the 8 · (4 + 2 + 2 + 4) + 3 · 64 columns of 32 in a layer; two of its three products in one of two.
  scheme[linear_index(spec, 1, LinearKind::down)] = formats_from_text("fp8/fp4/nvfp4");
  EXPECT_NEAR(fp4_share(spec, scheme), 64.0 / (96 + 192) / 2 * 2 / 3, 1e-12);
  EXPECT_EQ(scheme_from_json(spec, to_json(spec, scheme), "test"), scheme);
  Json json = to_json(spec, scheme);
  json["model.layers.2.mlp.up_proj.weight"] = "fp4";
  EXPECT_THROW(scheme_from_json(spec, json, "test"), Error);
  EXPECT_THROW(formats_from_text("fp4/fp8"), Error);
}

}  // namespace
}  // namespace scalebits
