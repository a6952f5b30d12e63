// Contract of the search on another device, run on the CPU's tensors: matrices are rounded to the host's very bits,
// blocks and channels get the host's scores up to the order of sums, whole models the host's losses and scores within
// what rounding does to their gradients, and the memory counted beforehand keeps to issue 6's bars.
#include "graph/batch_plan.h"
#include "graph/tensor_arithmetic.h"
#include "graph_golden.h"
#include "peak_memory.h"
#include "pipeline/search_passes.h"
#include "sensitivity/block_scores.h"
#include "sensitivity/device_matrix.h"
#include "sensitivity/device_memory.h"
#include "sensitivity/device_search_model.h"
#include "tiny_models.h"

#include "checkpoint/read_checkpoint.h"
#include "core/error.h"
#include "core/random.h"
#include "pipeline/one_shot.h"
#include "pipeline/width_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

namespace scalebits {
namespace {

using testing_graph::kEpsilon;
using testing_graph::largest;
using testing_graph::Recorder;
using testing_graph::rounding;

ChannelOrderPtr shuffled(std::int64_t count, std::uint64_t seed) {
  auto order = std::make_shared<ChannelOrder>();
  order->order.resize(static_cast<std::size_t>(count));
  std::iota(order->order.begin(), order->order.end(), 0u);
  const CounterRng rng(seed);
  for (std::size_t i = order->order.size(); i > 1; --i) std::swap(order->order[i - 1], order->order[rng.below(i, i)]);
  return order;
}

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  const CounterRng rng(seed);
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data_ptr<float>()[i] = static_cast<float>(rng.normal(static_cast<std::uint64_t>(i)));
  return tensor;
}

HostTensor stored(const at::Tensor& values, at::ScalarType type) {
  const auto owner = std::make_shared<at::Tensor>(values.to(type).contiguous());
  return {type == at::kFloat  ? DType::f32
          : type == at::kHalf ? DType::f16
                              : DType::bf16,
          values.sizes().vec(), std::span(static_cast<const std::byte*>(owner->data_ptr()), owner->nbytes()), owner};
}

std::vector<std::uint8_t> random_widths(const MatrixFormat& format, std::uint64_t seed) {
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()));
  for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = static_cast<std::uint8_t>(CounterRng(seed).below(i, 9));
  return widths;
}

struct Shape {
  std::int64_t rows, cols;
  BlockShape blocks;
  std::int64_t group_cols;
  bool ordered;
  at::ScalarType type;
};

class DeviceMatrixShapes : public testing::TestWithParam<Shape> {
 protected:
  const Shape s_ = GetParam();
  const at::Tensor weight_ = normal({s_.rows, s_.cols}, 3).to(s_.type), gradient_ = normal({s_.rows, s_.cols}, 5);
  const RoundedMatrix matrix_{
      stored(weight_, s_.type),
      {"m", s_.rows, s_.cols, s_.ordered ? shuffled(s_.rows, 1) : nullptr, s_.ordered ? shuffled(s_.cols, 2) : nullptr},
      s_.blocks,
      {.group_cols = static_cast<int>(s_.group_cols), .clip_search = s_.rows < 1000},
      {}};
  const DeviceMatrix on_device_{matrix_, at::kCPU};
  const std::vector<std::uint8_t> widths_ = random_widths(matrix_.format(), 4);

  at::Tensor dequantized() const {
    const at::Tensor rounded = at::empty({s_.rows, s_.cols}, at::kFloat);
    matrix_.dequantize(widths_, rounded.data_ptr<float>());
    return rounded;
  }
};
// The last one is cut into several pieces.
INSTANTIATE_TEST_SUITE_P(DeviceMatrix, DeviceMatrixShapes,
                         testing::Values(Shape{64, 128, {16, 64}, 64, false, at::kFloat},
                                         Shape{64, 128, {64, 64}, 64, true, at::kBFloat16},
                                         Shape{5, 44, {16, 64}, 64, true, at::kFloat},
                                         Shape{1, 1, {64, 64}, 32, true, at::kHalf},
                                         Shape{100, 172, {32, 128}, 128, true, at::kBFloat16},
                                         Shape{48, 200, {128, 64}, 32, false, at::kHalf},
                                         Shape{2500, 2080, {16, 64}, 64, true, at::kBFloat16}));

TEST_P(DeviceMatrixShapes, RoundsToTheHostsBits) {
  for (const at::ScalarType operand : {at::kFloat, at::kBFloat16}) {
    const at::Tensor out = at::empty({s_.rows, s_.cols}, operand);
    const testing_graph::PeakMemory temporaries;
    on_device_.dequantize(weight_, widths_, out);
    EXPECT_LE(temporaries.bytes(), kDeviceMatrixBytes);
    EXPECT_TRUE(out.equal(dequantized().to(operand)));
  }
  const std::vector<std::int64_t> rows = {s_.rows - 1, 0, s_.rows / 2, 0};
  const at::Tensor picked = at::tensor(rows, at::kLong), some = at::empty({4, s_.cols}, at::kFloat);
  on_device_.dequantize_rows(weight_.index_select(0, picked), rows, widths_, some);
  EXPECT_TRUE(some.equal(dequantized().index_select(0, picked)));
}

TEST_P(DeviceMatrixShapes, ScoresAreTheHostsUpToTheOrderOfSums) {
  for (const Statistic statistic :
       {Statistic::absolute, Statistic::signed_sum, Statistic::fisher, Statistic::gradient, Statistic::weight_error}) {
    SCOPED_TRACE(name_of(statistic));
    // Each sum of n terms errs by n epsilons of the sum of their sizes, which is itself except for signed ones.
    const Statistic sizes = statistic == Statistic::signed_sum ? Statistic::absolute : statistic;
    const auto* const g = gradient_.const_data_ptr<float>();
    const auto host = score_blocks(matrix_, g, statistic), bounds = score_blocks(matrix_, g, sizes);
    const testing_graph::PeakMemory temporaries;
    const auto device = on_device_.score_blocks(weight_, gradient_, statistic);
    EXPECT_LE(temporaries.bytes(), kDeviceMatrixBytes);
    ASSERT_EQ(host.size(), device.size());
    const double terms = static_cast<double>(s_.blocks.rows * s_.blocks.cols) + 8;
    for (std::size_t block = 0; block < host.size(); ++block)
      for (std::size_t bits = 0; bits <= 8; ++bits)
        ASSERT_LE(std::abs(host[block][bits] - device[block][bits]), 2 * terms * kEpsilon * bounds[block][bits])
            << "block " << block << " at " << bits << " bits";
    for (const int bits : {1, 4, 8}) {
      const ChannelScores on_host = score_channels(matrix_, g, statistic, bits),
                          limits = score_channels(matrix_, g, sizes, bits),
                          on_device = on_device_.score_channels(weight_, gradient_, statistic, bits);
      const auto expect_near = [&](const std::vector<double>& a, const std::vector<double>& b,
                                   const std::vector<double>& bound, std::int64_t count) {
        ASSERT_EQ(a.size(), b.size());
        for (std::size_t i = 0; i < a.size(); ++i)
          ASSERT_LE(std::abs(a[i] - b[i]), 2 * static_cast<double>(count + 8) * kEpsilon * bound[i]) << i;
      };
      expect_near(on_host.rows, on_device.rows, limits.rows, s_.cols);
      expect_near(on_host.cols, on_device.cols, limits.cols, s_.rows);
    }
  }
}

/// A model under search: matrices in random orders, at random widths.
struct Job {
  Checkpoint checkpoint;
  at::Tensor windows;
  Recipe recipe;
  RoundedMatrices matrices;
  BitPlan plan;
};

Job job_of(Checkpoint checkpoint, std::int64_t length, bool search_embedding = true) {
  Job job{.checkpoint = std::move(checkpoint)};
  const ModelSpec& spec = job.checkpoint.spec;
  job.windows = at::empty({3, length}, at::kLong);
  const CounterRng rng(8);
  for (std::int64_t i = 0; i < job.windows.numel(); ++i)
    job.windows.data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(spec.vocab)));
  job.recipe.embedding = search_embedding ? EmbeddingMode::search : EmbeddingMode::sixteen_bits;
  job.recipe.window_length = static_cast<int>(length);
  Partition partition = identity_partition(spec, search_embedding);
  std::vector<ChannelScores> scores = no_channel_scores(partition);
  for (std::size_t m = 0; m < scores.size(); ++m)
    for (auto* sums : {&scores[m].rows, &scores[m].cols})
      for (std::size_t i = 0; i < sums->size(); ++i) (*sums)[i] = CounterRng(9, m).uniform(i);
  partition = reorder(spec, partition, scores, Reordering::free);
  job.matrices = round_matrices(job.checkpoint, partition, {}, job.recipe);
  for (std::size_t m = 0; m < job.matrices.size(); ++m)
    // Not below 2 bits: a ruined model's gradients say nothing.
    job.plan.widths.push_back(random_widths(job.matrices[m]->format(), m));
  for (auto& widths : job.plan.widths)
    for (std::uint8_t& width : widths) width = std::max<std::uint8_t>(width, 2);
  return job;
}

class DeviceSearch : public testing::TestWithParam<std::string> {
 protected:
  static Job job() {
    const std::string name = GetParam();
    if (name == "stories260K")
      return job_of(read_checkpoint(SCALEBITS_SOURCE_DIR "/../shared/models/stories260K/stories260Ktok512.f32.gguf"),
                    40);
    const bool tied = name.ends_with("_tied");
    ModelSpec spec = testing_models::tiny_spec(family_from_name(name.substr(0, name.find('_')), "test"));
    spec.tied_head = tied;
    return job_of(testing_models::tiny_checkpoint(spec), 21);
  }
  void SetUp() override {
    if (GetParam() == "stories260K" && !std::filesystem::exists(SCALEBITS_SOURCE_DIR "/../shared/models/stories260K"))
      GTEST_SKIP() << "shared/models/stories260K is not there";
  }
};
INSTANTIATE_TEST_SUITE_P(Models, DeviceSearch,
                         testing::Values("llama", "llama_tied", "mistral", "qwen2_tied", "qwen3", "opt", "opt_tied",
                                         "stories260K"),
                         [](const auto& name) { return name.param; });

TEST_P(DeviceSearch, WeightsAreTheHosts) {
  const Job job = DeviceSearch::job();
  const ModelSpec& spec = job.checkpoint.spec;
  SearchModel host(job.checkpoint, job.matrices);
  const at::Tensor ids = job.windows.narrow(0, 0, 1), rows = at::empty({ids.numel(), spec.hidden}, at::kFloat),
                   host_rows = rows.clone();
  for (const bool keep : {true, false})
    for (const at::ScalarType operand : {at::kFloat, at::kBFloat16}) {
      DeviceSearchModel device(job.checkpoint, job.matrices, at::kCPU, operand, keep);
      for (const bool full_precision : {false, true, false}) {
        full_precision ? host.use_full_precision() : host.use(job.plan);
        full_precision ? device.use_full_precision() : device.use(job.plan);
        for (const LinearKind kind : linear_kinds(spec))
          EXPECT_TRUE(device.linear(1, kind).equal(host.linear(1, kind).to(operand))) << linear_name(1, kind);
        EXPECT_TRUE(device.head().equal(host.head().to(operand)));
        device.embed(ids, rows);
        host.embed(ids, host_rows);
        EXPECT_TRUE(rows.equal(host_rows)) << "in f32 whatever the operands";
      }
    }
}

TEST_P(DeviceSearch, ScoresDifferByTheRoundingOfGradientsOnly) {
  const Job job = DeviceSearch::job();
  const ModelSpec& spec = job.checkpoint.spec;
  const std::int64_t length = job.windows.size(1);
  SearchModel host(job.checkpoint, job.matrices);
  host.use(job.plan);
  Decoder host_decoder(spec, host);
  Recorder exact;
  exact.wanted_kind = GradientKind::tokens;
  const LossResult loss = host_decoder.loss_and_gradients(job.windows, {}, exact);
  double size = 0;
  for (const auto& [name, gradient] : exact.gradients) size = std::max(size, largest(gradient));
  const double logits = largest(host_decoder.logits(job.windows));

  const auto scores_of = [&](ScoredModel& model, Decoder& decoder, double& mean) {
    std::vector<std::vector<WidthScores>> scores(job.matrices.size());
    GradientReducer reducer(job.matrices, spec, GradientKind::tokens, [&](std::size_t m, const at::Tensor& gradient) {
      scores[m] = model.score_blocks(m, gradient, Statistic::fisher);
    });
    mean = decoder.loss_and_gradients(job.windows, {}, reducer).mean;
    return scores;
  };
  double host_mean = 0, mean = 0;
  const auto expected = scores_of(host, host_decoder, host_mean);
  for (const std::uint64_t budget : {std::uint64_t{0}, staged_window_bytes(spec, at::kFloat, length)}) {
    DeviceSearchModel device(job.checkpoint, job.matrices, at::kCPU, at::kFloat, false);
    device.use(job.plan);
    Decoder decoder(spec, device, {Compute::f32, budget, tensor_place(at::kCPU)});
    const auto found = scores_of(device, decoder, mean);
    EXPECT_NEAR(mean, host_mean, 2 * rounding(spec, length) * logits);
    // Gradients that differ by d give sums Σ g² e² that differ by 2 √(Σ g² e² · Σ d² e²) + Σ d² e² at most, besides
    // the rounding of the sums. d: as the host's own token gradients against their definition (graph_test.cpp), over a
    // window's length.
    const double d = 4 * rounding(spec, length) * size;
    for (std::size_t m = 0; m < job.matrices.size(); ++m) {
      const RoundedMatrix& matrix = *job.matrices[m];
      const std::vector<float> no_gradient(static_cast<std::size_t>(matrix.format().rows * matrix.format().cols));
      const auto errors = score_blocks(matrix, no_gradient.data(), Statistic::weight_error);
      ASSERT_EQ(found[m].size(), expected[m].size());
      const double terms = static_cast<double>(matrix.format().block_rows * matrix.format().block_cols) * kEpsilon;
      for (std::size_t block = 0; block < errors.size(); ++block)
        for (std::size_t bits = 0; bits <= 8; ++bits) {
          const double score = expected[m][block][bits], off = d * d * errors[block][bits];
          ASSERT_LE(std::abs(found[m][block][bits] - score), 2 * std::sqrt(score * off) + off + 2 * terms * score)
              << matrix.name() << ", block " << block << " at " << bits << " bits";
        }
    }
  }
}

TEST_P(DeviceSearch, PassesGiveTheHostsLossesAndMoments) {
  Job job = DeviceSearch::job();
  const ModelSpec& spec = job.checkpoint.spec;
  const Partition partition = identity_partition(spec, true);
  JobProcesses alone;
  for (const LossTarget::Kind loss : {LossTarget::Kind::nll, LossTarget::Kind::kl}) {
    job.recipe.loss = loss;
    SearchPasses host(job.checkpoint, job.recipe, job.matrices, alone);
    SearchPasses device(job.checkpoint, job.recipe, job.matrices, alone, {SearchDevice::Kind::cpu_tensors, true});
    // Losses are differences of logits, of which the largest counts.
    CheckpointWeights weights(job.checkpoint);
    const double logits = largest(Decoder(spec, weights).logits(job.windows));
    const double tolerance = 4 * rounding(spec, job.windows.size(1)) * logits;
    EXPECT_NEAR(device.validation_loss(job.plan, job.windows), host.validation_loss(job.plan, job.windows), tolerance);
    SensitivityTable scores, host_scores;
    EXPECT_NEAR(device.score_blocks(job.plan, job.windows, scores),
                host.score_blocks(job.plan, job.windows, host_scores), tolerance);
    std::vector<ChannelScores> channels = no_channel_scores(partition), host_channels = channels;
    EXPECT_NEAR(device.score_channels(job.plan, job.windows, 4, channels),
                host.score_channels(job.plan, job.windows, 4, host_channels), tolerance);
    const auto moments = device.input_moments(partition, job.windows),
               host_moments = host.input_moments(partition, job.windows);
    // The head reads what comes out of the final norm.
    const at::Tensor read = Decoder(spec, weights).hidden(job.windows).reshape({-1, spec.hidden}).square().mean(0);
    ASSERT_EQ(host_moments.back().size(), static_cast<std::size_t>(spec.hidden));
    for (std::int64_t i = 0; i < spec.hidden; ++i)
      EXPECT_NEAR(host_moments.back()[static_cast<std::size_t>(i)], read[i].item<float>(),
                  1e-5f * read[i].item<float>());
    for (std::size_t m = 0; m < moments.size(); ++m)
      for (std::size_t i = 0; i < moments[m].size(); ++i)
        // Squares of what a layer reads, each off by the rounding of the layers before it.
        EXPECT_NEAR(moments[m][i], host_moments[m][i],
                    2 * rounding(spec, job.windows.size(1)) *
                        *std::max_element(host_moments[m].begin(), host_moments[m].end()));
  }
}

ModelSpec llama(std::int64_t layers, std::int64_t kv_heads, std::int64_t intermediate, std::int64_t vocab) {
  ModelSpec spec;
  spec.layers = layers, spec.hidden = 4096, spec.intermediate = intermediate, spec.heads = 32, spec.kv_heads = kv_heads;
  spec.head_dim = 128, spec.vocab = vocab, spec.max_positions = 8192;
  return spec;
}

/// The whole of a refresh's memory with 32 windows of 2048 tokens, as the decoder will cut them.
std::uint64_t refresh_bytes(const ModelSpec& spec, const DeviceMemoryNeed& need, std::uint64_t memory_bytes,
                            BatchPlan& plan) {
  const at::ScalarType operand = need.compute == Compute::f32 ? at::kFloat : at::kBFloat16;
  const std::uint64_t left = activation_bytes_within(memory_bytes, spec, need, 2048);
  plan = plan_batch(spec, operand, {32, 2048, true}, {left, std::uint64_t{64} << 30});
  return device_memory(spec, need).total() + plan.bytes;
}

TEST(DeviceMemory, ASevenBillionModelNeedsEightGigabytesOffloadedAndAnEightBillionOneTwentyFour) {
  const ModelSpec seven = llama(32, 32, 11008, 32000), eight = llama(32, 8, 14336, 128256);
  for (const Compute compute : {Compute::bf16, Compute::f32})
    for (const bool vocabulary : {false, true}) {
      BatchPlan plan;
      EXPECT_LE(refresh_bytes(seven, {DType::bf16, compute, false, vocabulary}, 8'000'000'000, plan), 8'000'000'000u);
      EXPECT_TRUE(plan.staged) << "1 GB of inputs a layer is not on the card";
      EXPECT_GE(plan.windows_at_once, 1);
    }
  BatchPlan plan;
  EXPECT_LE(refresh_bytes(eight, {DType::bf16, Compute::bf16, true, false}, 24'000'000'000, plan), 24'000'000'000u);
  EXPECT_GE(plan.windows_at_once, 4) << "enough tokens for a product at a time";
  EXPECT_LE(refresh_bytes(eight, {DType::bf16, Compute::bf16, false, false}, 8'000'000'000, plan), 8'000'000'000u);
  // Counted by hand: 218,103,808 weights a layer and 525,336,576 of the head.
  const DeviceMemory memory = device_memory(eight, {DType::bf16, Compute::bf16, true, false});
  EXPECT_EQ(memory.weights, 2 * (32 * 218'103'808ull + 525'336'576ull));
  EXPECT_EQ(memory.layer, 2 * 218'103'808ull);
  EXPECT_EQ(memory.gradients, 4 * 218'103'808ull);
  EXPECT_EQ(memory.head, 512 * 128'256ull * (4 + 2));
}

TEST(DeviceMemory, WhatDoesNotFitIsRefusedWithTheSum) {
  const ModelSpec seven = llama(32, 32, 11008, 32000);
  try {
    activation_bytes_within(8'000'000'000, seven, {DType::bf16, Compute::bf16, true, false}, 2048);
    FAIL() << "13 GB of weights do not fit into 8";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unsupported_hardware);
    for (const char* const part : {"12.3 GiB of weights", "7.5 GiB are to be had", "--offload"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
  try {
    activation_bytes_within(1'000'000'000, seven, {DType::bf16, Compute::bf16, true, false}, 2048);
    FAIL() << "a layer and its gradient alone take more";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("--offload"), std::string::npos) << "it would not do: " << error.what();
  }
}

TEST(SearchDevices, AreNamedAndOthersRefused) {
  EXPECT_EQ(compute_device_from_name("cpu-tensors"), SearchDevice::Kind::cpu_tensors);
  EXPECT_THROW(compute_device_from_name("gpu"), Error);
}

}  // namespace
}  // namespace scalebits
