// Contract of the graph room: the decoder computes what Hugging Face transformers computes (logits, loss and the
// gradient of every weight matrix, golden files of tools/golden/logits_golden.py), however the pass is cut into
// micro-batches and chunks, and in either operand type within its rounding.
#include "graph/attention.h"
#include "graph/decoder.h"
#include "graph/device_weights.h"
#include "graph/generate.h"
#include "graph/tensor_arithmetic.h"
#include "graph/head_loss.h"
#include "graph/memory_budget.h"
#include "graph/row_kernels.h"
#include "graph_golden.h"

#include "core/error.h"
#include "core/float_types.h"
#include "core/machine_memory.h"
#include "core/parallel.h"
#include "core/random.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace scalebits {
namespace {

using namespace testing_graph;

class Families : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Graph, Families,
                         testing::Values("llama", "llama3_rope", "linear_rope", "mistral", "qwen2", "qwen3", "opt"),
                         [](const auto& family) { return std::string(family.param); });

TEST_P(Families, LogitsEqualTransformers) {
  const Golden golden = read_golden(GetParam());
  CheckpointWeights weights(golden.checkpoint);
  Decoder decoder(golden.checkpoint.spec, weights);
  const at::Tensor logits = decoder.logits(golden.ids);
  const double tolerance = rounding(golden.checkpoint.spec, golden.ids.size(1)) * largest(golden.logits);
  EXPECT_LE(difference(logits, golden.logits), tolerance);
  EXPECT_NEAR(decoder.loss(golden.ids, {}).mean, golden.loss, 2 * tolerance);
}

TEST_P(Families, GradientsEqualTransformersHoweverThePassIsCut) {
  const Golden golden = read_golden(GetParam());
  const ModelSpec& spec = golden.checkpoint.spec;
  CheckpointWeights weights(golden.checkpoint);
  const auto windows = golden.ids.size(0), length = golden.ids.size(1);
  // Exactly the layer inputs fit: layers run again in the backward pass, window by window.
  const auto least = static_cast<std::uint64_t>(4 * spec.hidden * windows * length * (spec.layers + 2));
  std::map<std::pair<std::int64_t, InputSite>, at::Tensor> input_sums;
  for (const std::uint64_t budget : {std::uint64_t{0}, least}) {
    SCOPED_TRACE(budget);
    Decoder decoder(spec, weights, {.activation_budget_bytes = budget});
    Recorder recorder;
    const LossResult result = decoder.loss_and_gradients(golden.ids, {}, recorder);
    EXPECT_NEAR(result.mean, golden.loss, 2 * rounding(spec, length) * largest(golden.logits));
    EXPECT_EQ(recorder.input_calls, spec.layers * 4 * (budget == 0 ? 1 : windows));
    ASSERT_EQ(recorder.gradients.size(), golden.gradients.size());
    for (const auto& [name, expected] : golden.gradients) {
      // Backward chains as many products as forward, on top of the forward pass's errors.
      const double tolerance = 2 * rounding(spec, windows * length) * largest(expected);
      EXPECT_LE(difference(recorder.gradients.at(name), expected), tolerance) << name;
    }
    EXPECT_EQ(recorder.order.front().rfind("model.layers.1.", 0), 0u) << "layers come last to first";
    for (const auto& [site, sum] : recorder.input_sums) {
      if (budget == 0) input_sums[site] = sum;
      EXPECT_LE(difference(sum, input_sums.at(site)), rounding(spec, length) * length_of(sum));
    }
  }
  Decoder starved(spec, weights, {.activation_budget_bytes = least - 1});
  Recorder recorder;
  EXPECT_THROW(starved.loss_and_gradients(golden.ids, {}, recorder), Error);
}

TEST_P(Families, TokenGradientsAreSquaredBeforeTheyAreAdded) {
  const Golden golden = read_golden(GetParam());
  const ModelSpec& spec = golden.checkpoint.spec;
  CheckpointWeights weights(golden.checkpoint);
  // In a window of two tokens only the first has a gradient: the window's own.
  const std::int64_t windows = golden.ids.numel() / 2;
  const at::Tensor pairs = golden.ids.reshape({windows, 2});
  std::map<std::string, at::Tensor> squares;
  for (std::int64_t window = 0; window < windows; ++window) {
    Decoder decoder(spec, weights);
    Recorder one;
    decoder.loss_and_gradients(pairs.narrow(0, window, 1).contiguous(), {}, one);
    for (const auto& [name, gradient] : one.gradients) {
      const at::Tensor share = gradient / static_cast<double>(windows);
      at::Tensor& sum = squares[name];
      sum = sum.defined() ? sum + share * share : share * share;
    }
  }
  const auto least = static_cast<std::uint64_t>(4 * spec.hidden * windows * 2 * (spec.layers + 2));
  for (const std::uint64_t budget : {std::uint64_t{0}, least}) {
    Decoder decoder(spec, weights, {.activation_budget_bytes = budget});
    Recorder all;
    all.wanted_kind = GradientKind::tokens;
    decoder.loss_and_gradients(pairs, {}, all);
    // A softmax over one key has no slope: what q and k get is the rounding of others.
    double largest_of_all = 0;
    for (const auto& [name, sum] : squares) largest_of_all = std::max(largest_of_all, largest(sum.sqrt()));
    for (const auto& [name, sum] : squares) {
      // Look-up and head of a tied embedding are squared apart.
      if (name == kEmbeddingName && spec.tied_head) continue;
      EXPECT_LE(difference(all.gradients.at(name), sum.sqrt()), 4 * rounding(spec, 2) * largest_of_all) << name;
    }
  }
}

TEST_P(Families, Bf16OperandsChangeGradientsByTheirRoundingOnly) {
  const Golden golden = read_golden(GetParam());
  const ModelSpec& spec = golden.checkpoint.spec;
  CheckpointWeights weights(golden.checkpoint);
  Decoder decoder(spec, weights, {.compute = Compute::bf16});
  Recorder recorder;
  const LossResult result = decoder.loss_and_gradients(golden.ids, {}, recorder);
  // About a dozen roundings per layer, forward and backward, each of half a bf16 epsilon and independent, so that they
  // add as a root of squares; random weights this large amplify by a few.
  const double tolerance = 4 * std::sqrt(2.0 * 12.0 * static_cast<double>(spec.layers)) * kBf16Epsilon / 2;
  EXPECT_NEAR(result.mean, golden.loss, tolerance * golden.loss);
  double squares = 0, error_squares = 0;
  for (const auto& [name, expected] : golden.gradients) {
    squares += std::pow(length_of(expected), 2);
    error_squares += std::pow(length_of(recorder.gradients.at(name).sub(expected)), 2);
  }
  EXPECT_LE(std::sqrt(error_squares / squares), tolerance);
  EXPECT_GT(error_squares, 0) << "bf16 was not used";
}

TEST_P(Families, CachedGenerationEqualsWholePasses) {
  const Golden golden = read_golden(GetParam());
  const ModelSpec& spec = golden.checkpoint.spec;
  CheckpointWeights weights(golden.checkpoint);
  Decoder decoder(spec, weights);
  const std::vector<std::int32_t> prompt = {3, 5, 7, 11};
  const auto generated = generate(spec, weights, {prompt, {4, 4, 8, 9}}, {.max_new_tokens = 12});
  ASSERT_EQ(generated.size(), 2u);
  ASSERT_EQ(generated[0].size(), 12u);
  std::vector<std::int64_t> ids(prompt.begin(), prompt.end());
  for (const std::int32_t token : generated[0]) {
    const auto length = static_cast<std::int64_t>(ids.size());
    const at::Tensor logits =
        decoder.logits(at::from_blob(ids.data(), {1, length}, at::kLong)).select(1, length - 1).view({-1});
    // Greedy: the token must be a maximum, up to the rounding in which the two ways differ.
    EXPECT_GE(logits.select(0, token).item<double>(),
              logits.max().item<double>() - 2 * rounding(spec, length) * largest(logits));
    ids.push_back(token);
  }
}

TEST(Generate, DrawsDoNotDependOnTheBatch) {
  const Golden golden = read_golden("llama");
  CheckpointWeights weights(golden.checkpoint);
  const GenerationOptions options{
      .max_new_tokens = 20,
      .sampling = {.temperature = 1.0, .top_k = 20, .top_p = 0.95, .repetition_penalty = 1.1, .seed = 7}};
  const auto both = generate(golden.checkpoint.spec, weights, {{1, 2, 3}, {1, 2, 3}}, options);
  const auto alone = generate(golden.checkpoint.spec, weights, {{1, 2, 3}}, options);
  EXPECT_EQ(both[0], alone[0]);
  EXPECT_NE(both[0], both[1]) << "each sequence has a stream of its own";
}

TEST(Generate, StopsAtStopTokensAndTheCallbackSeesEachToken) {
  const Golden golden = read_golden("llama");
  CheckpointWeights weights(golden.checkpoint);
  GenerationOptions options{.max_new_tokens = 8, .sampling = {.temperature = 1.0, .seed = 3}};
  const auto free_run = generate(golden.checkpoint.spec, weights, {{1, 2, 3}}, options);
  const std::int32_t stop = free_run[0][4];
  std::vector<std::int32_t> seen;
  options.stop_ids = {stop};
  const auto stopped =
      generate(golden.checkpoint.spec, weights, {{1, 2, 3}}, options, [&](std::size_t, std::int32_t token) {
        seen.push_back(token);
        return true;
      });
  EXPECT_EQ(stopped[0].back(), stop);
  EXPECT_LE(stopped[0].size(), 5u);
  EXPECT_EQ(seen, stopped[0]);
  EXPECT_THROW(generate(golden.checkpoint.spec, weights, {{1, 2, 3}}, {.max_new_tokens = 1000}), Error)
      << "past the last position";
}

TEST_P(Families, OwnTextIsTheSameWhereverItIsWrittenAndHoweverManyWindowsAtATime) {
  const Golden golden = read_golden(GetParam());
  const Checkpoint& checkpoint = golden.checkpoint;
  CheckpointWeights weights(checkpoint);
  SelfTextOptions options{.windows = 7, .length = 24, .seed = 5};
  const int threads = thread_count();
  set_thread_count(1);  // thousands of tiny operations, for which threads would only wait
  const at::Tensor text = sample_own_text(checkpoint.spec, weights, options);
  // In f32 another order of sums moves a draw's borders by 1e-6 of the interval: none of these 168 lies so near one.
  options.windows_at_once = 3;
  EXPECT_TRUE(text.equal(sample_own_text(checkpoint.spec, weights, options)));
  options.place = tensor_place(at::kCPU);
  for (const bool keep : {true, false}) {
    DeviceWeights there(checkpoint, at::kCPU, at::kFloat, keep);
    EXPECT_TRUE(text.equal(sample_own_text(checkpoint.spec, there, options)));
  }
  options.compute = Compute::bf16;
  DeviceWeights there(checkpoint, at::kCPU, at::kBFloat16, true);
  EXPECT_EQ(sample_own_text(checkpoint.spec, there, options).sizes(), text.sizes());
  set_thread_count(threads);
}

TEST(OwnText, EndsALittleLateWhereTooFewWindowsCouldBeBegunAnew) {
  const Golden golden = read_golden("llama");
  CheckpointWeights weights(golden.checkpoint);
  const SelfTextOptions options{.windows = 7, .length = 24, .seconds = 2};
  const at::Tensor text = sample_own_text(golden.checkpoint.spec, weights, options, [](const ProgressReport& report) {
    const bool late = report.fraction > 0.5 && report.fraction < 0.9;
    if (late) std::this_thread::sleep_for(std::chrono::milliseconds(1750));
  });
  EXPECT_EQ(text.size(0), options.windows);
}

TEST(CheckpointWeights, RowsOfTheEmbeddingAreThoseOfTheWhole) {
  const at::Tensor ids = at::tensor({4, 0, 2, 2}, at::kLong).view({2, 2});
  std::vector<float> values(5 * 3);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.25f - 1;
  std::vector<std::uint16_t> halves;
  for (const float value : values) halves.push_back(f32_to_bf16(value));
  for (const HostTensor& table :
       {HostTensor::from_f32({5, 3}, values), HostTensor{DType::bf16, {5, 3}, std::as_bytes(std::span(halves)), {}}}) {
    Checkpoint checkpoint;
    checkpoint.tensors[std::string(kEmbeddingName)] = table;
    CheckpointWeights weights(checkpoint);
    const at::Tensor rows = at::empty({4, 3}, at::kFloat);
    weights.embed(ids, rows);
    EXPECT_TRUE(at::equal(rows, weights.embedding().index_select(0, ids.flatten())));
    EXPECT_EQ(rows[0][0].item<float>(), 2.0f);  // 12 · 0.25 − 1
  }
}

TEST(Decoder, RefusesWhatItCannotRun) {
  const Golden golden = read_golden("llama");
  CheckpointWeights weights(golden.checkpoint);
  Decoder decoder(golden.checkpoint.spec, weights);
  at::Tensor ids = golden.ids.clone();
  ids.data_ptr<std::int64_t>()[0] = golden.checkpoint.spec.vocab;
  EXPECT_THROW(decoder.loss(ids, {}), Error);
  EXPECT_THROW(decoder.loss(at::empty({1, golden.checkpoint.spec.max_positions + 1}, at::kLong).zero_(), {}), Error);
  EXPECT_THROW(decoder.loss(golden.ids.narrow(1, 0, 1).contiguous(), {}), Error) << "nothing to score";
}

TEST(Decoder, RepeatsItselfExactly) {
  const Golden golden = read_golden("qwen3");
  CheckpointWeights weights(golden.checkpoint);
  Decoder decoder(golden.checkpoint.spec, weights);
  Recorder first, second;
  EXPECT_EQ(decoder.loss_and_gradients(golden.ids, {}, first).token_losses,
            decoder.loss_and_gradients(golden.ids, {}, second).token_losses);
  for (const auto& [name, gradient] : first.gradients) EXPECT_TRUE(gradient.equal(second.gradients.at(name))) << name;
}

/// softmax(q k^T / sqrt(d)) v over the keys each query may see, and its gradients, by the definition in f64.
TEST(Attention, EqualsTheDefinitionAcrossBlocksAndWindows) {
  const std::int64_t windows = 2, length = 300, heads = 4, kv_heads = 2, d = 24;  // more than two blocks of queries
  const CounterRng rng(17);
  std::uint64_t draws = 0;
  const auto random = [&](std::int64_t count_heads) {
    at::Tensor tensor = at::empty({windows, length, count_heads, d}, at::kFloat);
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      tensor.data_ptr<float>()[i] = static_cast<float>(rng.normal(draws++));
    return tensor;
  };
  for (const std::int64_t sliding_window : {0, 1, 70, 200}) {
    SCOPED_TRACE(sliding_window);
    const Attention attention{random(heads),
                              random(kv_heads),
                              random(kv_heads),
                              random(heads),
                              at::empty({windows, heads, length}, at::kFloat),
                              sliding_window};
    const AttentionGradient gradient{random(heads), random(heads), random(kv_heads), random(kv_heads)};
    attend(attention);
    attend_backward(attention, gradient);
    at::Tensor dk = at::empty({windows, length, kv_heads, d}, at::kDouble).zero_(), dv = dk.clone();
    double error = 0, gradient_error = 0;
    for (std::int64_t window = 0; window < windows; ++window)
      for (std::int64_t head = 0; head < heads; ++head) {
        const auto matrix = [&](const at::Tensor& tensor, std::int64_t which) {
          return tensor.select(0, window).select(1, which).to(at::kDouble);
        };
        const std::int64_t kv_head = head / (heads / kv_heads);
        const at::Tensor q = matrix(attention.q, head), k = matrix(attention.k, kv_head),
                         v = matrix(attention.v, kv_head);
        at::Tensor scores = q.mm(k.t()).div(std::sqrt(static_cast<double>(d)));
        for (std::int64_t i = 0; i < length; ++i)
          for (std::int64_t j = 0; j < length; ++j)
            if (j > i || (sliding_window > 0 && j <= i - sliding_window))
              scores.data_ptr<double>()[i * length + j] = -std::numeric_limits<double>::infinity();
        const at::Tensor weights = scores.softmax(1), d_out = matrix(gradient.dout, head);
        const at::Tensor d_weights = d_out.mm(v.t());
        const at::Tensor d_scores =
            weights.mul(d_weights.sub(weights.mul(d_weights).sum(1, true))).div(std::sqrt(static_cast<double>(d)));
        error = std::max(error, difference(matrix(attention.out, head), weights.mm(v)));
        gradient_error = std::max(gradient_error, difference(matrix(gradient.dq, head), d_scores.mm(k)));
        dk.select(0, window).select(1, kv_head).add_(d_scores.t().mm(q));
        dv.select(0, window).select(1, kv_head).add_(weights.t().mm(d_out));
      }
    gradient_error = std::max(
        {gradient_error, difference(gradient.dk.to(at::kDouble), dk), difference(gradient.dv.to(at::kDouble), dv)});
    // A score errs by d roundings of its size (about 10), which the softmax carries to its weights; sums are over
    // length.
    const double tolerance = static_cast<double>(10 * d + length) * kEpsilon * 5;
    EXPECT_LE(error, tolerance);
    EXPECT_LE(gradient_error, 10 * tolerance) << "gradients sum over the queries of a group and their differences";
  }
}

TEST(HeadLoss, DivergenceFromItselfIsZero) {
  const Golden golden = read_golden("qwen2");
  CheckpointWeights weights(golden.checkpoint);
  Decoder decoder(golden.checkpoint.spec, weights);
  const LossTarget target{LossTarget::Kind::kl, decoder.hidden(golden.ids), weights.head()};
  const LossResult result = decoder.loss(golden.ids, target);
  for (const float loss : result.token_losses) EXPECT_EQ(loss, 0.0f);
  for (const auto same : result.top1_agreements) EXPECT_EQ(same, 1);
}

TEST(HeadLoss, EqualsTheDefinitionWhateverTheChunk) {
  const std::int64_t windows = 3, length = 7, hidden = 20, vocab = 45, n = windows * length;
  const CounterRng rng(5);
  std::uint64_t draw = 0;
  const auto random = [&](at::IntArrayRef shape) {
    at::Tensor tensor = at::empty(shape, at::kFloat);
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      tensor.data_ptr<float>()[i] = static_cast<float>(rng.normal(draw++));
    return tensor;
  };
  const at::Tensor states = random({n, hidden}), head = random({vocab, hidden});
  const at::Tensor reference_states = random({windows, length, hidden}), reference_head = random({vocab, hidden});
  at::Tensor ids = at::empty({windows, length}, at::kLong);
  for (std::int64_t i = 0; i < n; ++i)
    ids.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(rng.below(draw++, vocab));

  const at::Tensor log_q = states.to(at::kDouble).mm(head.to(at::kDouble).t()).log_softmax(1);
  const at::Tensor log_p =
      reference_states.view({n, hidden}).to(at::kDouble).mm(reference_head.to(at::kDouble).t()).log_softmax(1);
  for (const bool kl : {false, true}) {
    at::Tensor d_logits = log_q.exp();
    double mean = 0;
    for (std::int64_t token = 0; token < n; ++token) {
      at::Tensor row = d_logits.select(0, token);
      if (token % length == length - 1) {
        row.zero_();
      } else if (kl) {
        mean +=
            log_p.select(0, token).exp().mul(log_p.select(0, token).sub(log_q.select(0, token))).sum().item<double>();
        row.sub_(log_p.select(0, token).exp());
      } else {
        const std::int64_t next = ids.data_ptr<std::int64_t>()[token + 1];
        mean -= log_q.select(0, token).select(0, next).item<double>();
        row.select(0, next).sub_(1.0);
      }
    }
    const double scored = static_cast<double>(windows * (length - 1));
    d_logits.div_(scored);
    const at::Tensor d_states = d_logits.mm(head.to(at::kDouble)), d_head = d_logits.t().mm(states.to(at::kDouble));
    const LossTarget target = kl ? LossTarget{LossTarget::Kind::kl, reference_states, reference_head} : LossTarget{};
    for (const std::int64_t chunk : {1, 5, 512}) {
      Workspace workspace;
      HeadGradients gradients{at::empty({n, hidden}, at::kFloat), at::empty({vocab, hidden}, at::kFloat).zero_()};
      const LossResult result = head_loss({ids, states, head}, target, {.chunk_tokens = chunk}, gradients, workspace);
      const double tolerance = static_cast<double>(hidden + vocab) * kEpsilon * 20;  // logits reach about 20
      EXPECT_NEAR(result.mean, mean / scored, tolerance);
      EXPECT_LE(difference(gradients.hidden.to(at::kDouble), d_states), tolerance);
      EXPECT_LE(difference(gradients.head.to(at::kDouble), d_head), tolerance);
      ASSERT_EQ(result.window_means.size(), static_cast<std::size_t>(windows));
      EXPECT_NEAR((result.window_means[0] + result.window_means[1] + result.window_means[2]) / 3, result.mean,
                  1e-12 * result.mean);
    }
  }
}

/// By the definition in f64.
std::vector<double> layer_norm(const std::vector<double>& x, const std::vector<float>& weight, float bias) {
  const auto count = static_cast<double>(x.size());
  double mean = 0, variance = 0;
  for (const double v : x) mean += v / count;
  for (const double v : x) variance += (v - mean) * (v - mean) / count;
  std::vector<double> out;
  for (std::size_t i = 0; i < x.size(); ++i)
    out.push_back((x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + bias);
  return out;
}

/// Forward against the definition, backward against its finite differences.
template <typename T>
void check_layer_norm(const RowKernels<T>& kernels, const std::vector<float>& x, const std::vector<float>& weight,
                      double epsilon) {
  const auto width = static_cast<std::int64_t>(x.size());
  const std::vector<float> bias(x.size(), 0.75f);
  std::vector<double> wide(x.begin(), x.end());
  std::vector<T> out(x.size()), delta(x.size()), rounded(x.size());
  std::vector<float> total(x.size()), back(x.size()), d(x.size()), dx(x.size(), 0.5f);
  kernels.from_f32(weight.data(), width, delta.data());
  kernels.to_f32(delta.data(), width, d.data());
  const double tolerance = epsilon + static_cast<double>(width) * kEpsilon;
  for (const bool adds : {false, true}) {
    for (std::size_t i = 0; i < x.size(); ++i) wide[i] = adds ? x[i] + d[i] : x[i];
    kernels.add_layer_norm(x.data(), adds ? delta.data() : nullptr, weight.data(), bias.data(), 1e-5f, width,
                           total.data(), out.data());
    kernels.to_f32(out.data(), width, back.data());
    const std::vector<double> expected = layer_norm(wide, weight, 0.75f);
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_NEAR(back[i], expected[i], (std::abs(expected[i]) + std::abs(weight[i]) * 4 + 1) * tolerance);
  }
  kernels.layer_norm_backward(delta.data(), x.data(), weight.data(), 1e-5f, width, dx.data(), rounded.data());
  kernels.to_f32(rounded.data(), width, back.data());
  wide.assign(x.begin(), x.end());
  double mean = 0, variance = 0, largest_slope = 0, error = 0;
  for (const double v : wide) mean += v / static_cast<double>(width);
  for (const double v : wide) variance += (v - mean) * (v - mean) / static_cast<double>(width);
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::vector<double> above = wide, below = wide;
    above[i] += 1e-4, below[i] -= 1e-4;
    above = layer_norm(above, weight, 0.75f), below = layer_norm(below, weight, 0.75f);
    double slope = 0;
    for (std::size_t j = 0; j < x.size(); ++j) slope += d[j] * (above[j] - below[j]) / 2e-4;
    largest_slope = std::max(largest_slope, std::abs(d[i] * weight[i]) / std::sqrt(variance + 1e-5));
    error = std::max(error, std::abs(dx[i] - 0.5 - slope));
    EXPECT_NEAR(back[i], dx[i], std::abs(dx[i]) * epsilon);
  }
  // The terms are of the size of largest_slope, and a channel alone (its own mean) has nothing left of them.
  EXPECT_LE(error, static_cast<double>(width + 16) * kEpsilon * (largest_slope + 1)) << width << " channels";
}

/// Every instruction set must compute the same functions, row tails included, within a few units in the last place.
template <typename T>
void check_row_kernels(const RowKernels<T>& kernels, double epsilon) {
  const CounterRng rng(11);
  for (const std::int64_t width : {1, 15, 16, 17, 64, 100}) {
    std::vector<float> x(static_cast<std::size_t>(width)), weight(x.size()), back(x.size());
    std::vector<T> out(x.size()), gate(x.size()), up(x.size()), product(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(3 * rng.normal(i));
      weight[i] = static_cast<float>(rng.normal(1000 + i));
    }
    double squares = 0;
    for (const float v : x) squares += double(v) * v;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
    kernels.add_norm(x.data(), nullptr, weight.data(), 1e-5f, width, nullptr, out.data());
    kernels.to_f32(out.data(), width, back.data());
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_NEAR(back[i], x[i] * scale * weight[i],
                  std::abs(back[i]) * (epsilon + static_cast<double>(width) * kEpsilon));

    check_layer_norm(kernels, x, weight, epsilon);

    kernels.from_f32(x.data(), width, gate.data());
    kernels.from_f32(weight.data(), width, up.data());
    std::vector<float> g(x.size()), u(x.size());
    kernels.to_f32(gate.data(), width, g.data());
    kernels.to_f32(up.data(), width, u.data());
    kernels.swiglu(gate.data(), up.data(), width, product.data());
    kernels.to_f32(product.data(), width, back.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = g[i] / (1 + std::exp(-double(g[i]))) * u[i];
      EXPECT_NEAR(back[i], expected, std::abs(expected) * (epsilon + 8 * kEpsilon));
    }
    kernels.relu(gate.data(), width, product.data());
    kernels.to_f32(product.data(), width, back.data());
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], std::max(g[i], 0.0f));
    std::vector<T> into = gate, slope = up;
    kernels.relu_backward(into.data(), slope.data(), width);
    kernels.to_f32(slope.data(), width, back.data());
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], std::max(g[i], 0.0f));
    kernels.to_f32(into.data(), width, back.data());
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], g[i] > 0 ? u[i] : 0);

    std::vector<float> wide = x, reference = weight;
    T* gradient = product.data();
    double sum = 0, reference_sum = 0, divergence = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
      sum += std::exp(double(wide[i])), reference_sum += std::exp(double(reference[i]));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double log_p = reference[i] - std::log(reference_sum), log_q = wide[i] - std::log(sum);
      divergence += std::exp(log_p) * (log_p - log_q);
    }
    EXPECT_NEAR(kernels.nll(wide.data(), width, width - 1, 1.0f, gradient), std::log(sum) - x.back(),
                16 * kEpsilon * 10);
    kernels.to_f32(gradient, width, back.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = std::exp(double(x[i])) / sum - (i + 1 == x.size());
      EXPECT_NEAR(back[i], expected, epsilon * std::abs(expected) + 16 * kEpsilon);
    }
    bool same_top = false;
    EXPECT_NEAR(kernels.kl(wide.data(), reference.data(), width, 1.0f, nullptr, &same_top), divergence,
                32 * kEpsilon * 10);
    EXPECT_EQ(same_top, std::max_element(x.begin(), x.end()) - x.begin() ==
                            std::max_element(reference.begin(), reference.end()) - reference.begin());
  }
}

TEST(RowKernels, EveryInstructionSetComputesTheSameFunctions) {
  check_row_kernels(portable::table<float>(), 4 * kEpsilon);
  check_row_kernels(portable::table<Bf16>(), kBf16Epsilon / 2);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    check_row_kernels(avx2::table<float>(), 4 * kEpsilon);
    check_row_kernels(avx2::table<Bf16>(), kBf16Epsilon / 2);
  }
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    check_row_kernels(avx512::table<float>(), 4 * kEpsilon);
    check_row_kernels(avx512::table<Bf16>(), kBf16Epsilon / 2);
  }
#endif
}

TEST(MemoryBudget, IsSharedByTheProcessesOfAMachine) {
  EXPECT_EQ(half_of_own_memory_bytes(), machine_memory_bytes() / 2);
  share_memory(4);
  EXPECT_EQ(half_of_own_memory_bytes(), machine_memory_bytes() / 8);
  share_memory(1);
}

}  // namespace
}  // namespace scalebits
