// Contract of the two halves: a packed artifact has the same perplexity when the runtime runs it with exact activations
// and when torch runs its dequantised weights; and so has an unquantised model of each family. Needs libtorch.
#include "evaluate/perplexity.h"

#include "artifact/artifact.h"
#include "bench/random_artifact.h"
#include "core/random.h"
#include "graph/artifact_weights.h"
#include "graph/decoder.h"
#include "tiny_models.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace scalebits {
namespace {

using testing_models::TemporaryFolder;

TextWindows random_windows(std::int64_t vocab, std::int64_t count, std::int64_t context) {
  TextWindows windows{context, {}};
  for (std::int64_t i = 0; i < count * context; ++i)
    windows.ids.push_back(static_cast<std::int32_t>(
        CounterRng(5).below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocab))));
  return windows;
}

/// As in runtime_test: f32 roundings of a layer's five chained products, and keys and values kept as f16, times the
/// size of logits.
double tolerance(const ModelSpec& spec, std::int64_t length, double logit) {
  const std::int64_t chained =
      2 * spec.hidden + spec.heads * spec.head_dim + spec.head_dim + length + spec.intermediate;
  return logit * (static_cast<double>(spec.layers * chained + spec.hidden) * 0x1p-23 +
                  static_cast<double>(spec.layers) * 0x1p-11 * (2 * 4 + 1));
}

void expect_same_loss(RuntimeModel& model, WeightSource& weights) {
  const ModelSpec& spec = model.spec();
  const TextWindows windows = random_windows(spec.vocab, 3, 40);
  at::Tensor ids = at::empty({windows.count(), windows.context}, at::kLong);
  std::copy(windows.ids.begin(), windows.ids.end(), ids.data_ptr<std::int64_t>());
  Decoder decoder(spec, weights);
  const LossResult expected = decoder.loss(ids, {});
  const PerplexityResult found = measure_perplexity(model, windows);
  const double logit = decoder.logits(ids).abs().max().item<double>();
  ASSERT_EQ(found.nll.windows.size(), expected.window_means.size());
  for (std::size_t i = 0; i < expected.window_means.size(); ++i)
    EXPECT_NEAR(found.nll.windows[i], expected.window_means[i], 2 * tolerance(spec, windows.context, logit));
}

void expect_same_loss(const ModelSpec& spec) {
  const auto random = testing_models::random_model(spec, 7);
  Checkpoint checkpoint;
  checkpoint.spec = spec;
  checkpoint.source = "tiny";
  for (const TensorShape& tensor : required_tensors(spec)) {
    std::vector<float> values = random.weights.at(tensor.name);
    for (float& value : values) value *= tensor.shape.size() == 1 ? 1.0f : 0.25f;  // or the model saturates
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::move(values));
  }
  CheckpointWeights weights(checkpoint);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.activations = ActivationFormat::f32});
  expect_same_loss(*model, weights);
}

class Families : public testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(RuntimeAndTorch, Families,
                         testing::Values(Family::llama, Family::mistral, Family::qwen2, Family::qwen3, Family::opt),
                         [](const auto& family) { return std::string(name_of(family.param)); });

TEST_P(Families, LoseTheSame) {
  for (const bool tied : {false, true}) {
    ModelSpec spec = testing_models::tiny_spec(GetParam());
    spec.tied_head = tied;
    expect_same_loss(spec);
  }
}

TEST(RuntimeAndTorch, LoseTheSameWithEachKindAlone) {
  const ModelSpec llama = testing_models::tiny_spec(Family::llama);
  ModelSpec layer_norm = llama, relu = llama, learned = llama;
  layer_norm.norm = NormKind::layer;
  relu.mlp = MlpKind::relu;
  learned.positions = PositionKind::learned, learned.position_offset = 1;
  for (const ModelSpec& spec : {layer_norm, relu, learned}) expect_same_loss(spec);
}

TEST(RuntimeAndTorch, LoseTheSameWithPackedWeights) {
  for (const RandomOrders orders : {RandomOrders::none, RandomOrders::site, RandomOrders::free}) {
    RandomArtifactOptions options;
    options.layers = 2, options.hidden = 96, options.intermediate = 200, options.heads = 4, options.kv_heads = 2;
    options.vocab = 301, options.max_positions = 64;
    options.widths = WidthMix::parse("0:0.1,2:0.4,3:0.3,5:0.1,8:0.1");
    options.orders = orders;
    TemporaryFolder folder;
    write_random_artifact(folder / "a", options, [](std::uint64_t) {});
    const auto artifact = std::make_shared<const Artifact>(Artifact::open(folder / "a"));
    ArtifactWeights weights(artifact);
    const auto model = RuntimeModel::from_artifact(artifact, {.activations = ActivationFormat::f32});
    expect_same_loss(*model, weights);
  }
}

}  // namespace
}  // namespace scalebits
