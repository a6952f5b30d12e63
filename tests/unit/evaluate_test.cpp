// Contract of the evaluate room: windows are cut as documented, means and errors are those of the definition, a model
// does not diverge from itself, and a real model's loss on a text is the known one.
#include "evaluate/kl.h"
#include "evaluate/perplexity.h"
#include "evaluate/token_loss.h"

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/random.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

namespace scalebits {
namespace {

Checkpoint random_checkpoint(std::uint64_t seed, std::int64_t vocab = 64) {
  Checkpoint checkpoint;
  checkpoint.spec = {.family = Family::llama,
                     .layers = 2,
                     .hidden = 32,
                     .intermediate = 48,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = 8,
                     .vocab = vocab,
                     .max_positions = 64};
  checkpoint.source = "random";
  std::uint64_t stream = 0;
  for (const TensorShape& tensor : required_tensors(checkpoint.spec)) {
    const CounterRng rng(seed, stream++);
    std::int64_t count = 1;
    for (const std::int64_t extent : tensor.shape) count *= extent;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(tensor.shape.size() == 1 ? 1.0 : 0.3 * rng.normal(i));
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::move(values));
  }
  return checkpoint;
}

std::vector<std::int32_t> some_ids(std::size_t count) {
  std::vector<std::int32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int32_t>(CounterRng(3).below(i, 64));
  return ids;
}

TEST(CutWindows, ConsecutiveNonOverlappingWholeWindows) {
  std::vector<std::int32_t> ids(23);
  std::iota(ids.begin(), ids.end(), 0);
  const TextWindows plain = cut_windows(ids, {.context = 5});
  ASSERT_EQ(plain.count(), 4) << "the last 3 tokens do not fill a window";
  for (std::int32_t i = 0; i < 20; ++i) EXPECT_EQ(plain.window(i / 5)[static_cast<std::size_t>(i % 5)], i);
  EXPECT_EQ(cut_windows(ids, {.context = 5, .max_windows = 2}).count(), 2);
  const TextWindows with_bos = cut_windows(ids, {.context = 5, .bos = 99});
  ASSERT_EQ(with_bos.count(), 5) << "BOS takes the place of one token";
  EXPECT_EQ(with_bos.window(1)[0], 99);
  EXPECT_EQ(with_bos.window(1)[1], 4);
  EXPECT_THROW(cut_windows(ids, {.context = 24}), Error);
  EXPECT_THROW(cut_windows(ids, {.context = 1}), Error);
}

TEST(WindowMeans, MeanAndStandardError) {
  const WindowMeans means{{1, 2, 3, 6}};
  EXPECT_DOUBLE_EQ(means.mean(), 3);
  EXPECT_DOUBLE_EQ(means.standard_error(), std::sqrt((4 + 1 + 0 + 9) / 3.0 / 4));
  EXPECT_DOUBLE_EQ((PerplexityResult{means}.perplexity()), std::exp(3.0));
  EXPECT_EQ((WindowMeans{{5}}.standard_error()), 0);
  EXPECT_TRUE(to_json(PerplexityResult{{{5}}}).at("standard_error").is_null()) << "one window has no spread";
  EXPECT_TRUE(to_json(PerplexityResult{{{5}}}).at("nll_standard_error").is_null());
  EXPECT_TRUE(to_json(KlResult{.kl = {{5}}}).at("standard_error").is_null());
  EXPECT_EQ(to_json(PerplexityResult{means}).at("nll_standard_error"), means.standard_error());
}

/// The definitions, in f64.
std::vector<double> log_softmax(const std::vector<float>& logits) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double(logit));
  std::vector<double> logs;
  for (const float logit : logits) logs.push_back(double(logit) - std::log(sum));
  return logs;
}

TEST(TokenLoss, EqualsTheDefinition) {
  const CounterRng rng(7);
  for (const std::size_t vocab : {1, 15, 16, 17, 1000, 5003}) {
    std::vector<float> q(vocab), p(vocab);
    for (std::size_t i = 0; i < vocab; ++i) {
      q[i] = static_cast<float>(3 * rng.normal(i));
      p[i] = static_cast<float>(3 * rng.normal(vocab + i));
    }
    const std::vector<double> log_q = log_softmax(q), log_p = log_softmax(p);
    const auto size = static_cast<std::int64_t>(vocab);
    // Logits reach about 12, so that differences from the log of the sum carry 2^-23 of that; exp adds a few units.
    const double tolerance = 16 * 12 * 0x1p-24;
    EXPECT_NEAR(negative_log_likelihood(q.data(), size, size - 1), -log_q.back(), tolerance);
    double kl = 0;
    for (std::size_t i = 0; i < vocab; ++i) kl += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
    EXPECT_NEAR(divergence(q.data(), p.data(), size).kl, kl, 2 * tolerance);
    EXPECT_EQ(divergence(q.data(), p.data(), size).same_top1,
              std::max_element(q.begin(), q.end()) - q.begin() == std::max_element(p.begin(), p.end()) - p.begin());
    EXPECT_EQ(divergence(q.data(), q.data(), size).kl, 0);
  }
}

TEST(Perplexity, IsTheMeanOfItsTokens) {
  const auto model = RuntimeModel::from_checkpoint(random_checkpoint(1), {.threads = 2, .chunk_tokens = 16});
  const TextWindows windows = cut_windows(some_ids(200), {.context = 40});
  const PerplexityResult result = measure_perplexity(*model, windows);
  ASSERT_EQ(result.nll.windows.size(), 5u);
  for (std::int64_t i = 0; i < windows.count(); ++i) {
    Session session(*model);
    double sum = 0;
    for (std::size_t t = 0; t + 1 < 40; ++t)
      sum += negative_log_likelihood(session.evaluate(windows.window(i).subspan(t, 1)).data(), 64,
                                     windows.window(i)[t + 1]);
    EXPECT_DOUBLE_EQ(result.nll.windows[static_cast<std::size_t>(i)], sum / 39);
  }
}

TEST(CompareModels, ItselfIsZeroAnotherIsNot) {
  const auto model = RuntimeModel::from_checkpoint(random_checkpoint(1), {.threads = 1});
  // What a model says does not depend on how it reads.
  const auto same = RuntimeModel::from_checkpoint(random_checkpoint(1), {.threads = 2, .chunk_tokens = 7});
  const auto other = RuntimeModel::from_checkpoint(random_checkpoint(2), {.threads = 1});
  const TextWindows windows = cut_windows(some_ids(200), {.context = 20});
  const Comparison itself = compare_models(*model, *same, windows);
  for (const double kl : itself.divergence.kl.windows) EXPECT_EQ(kl, 0);
  EXPECT_EQ(itself.divergence.top1_agreement, 1);
  EXPECT_EQ(itself.divergence.percentile_99, 0);
  EXPECT_EQ(itself.model.nll.windows, itself.reference.nll.windows);
  const Comparison apart = compare_models(*other, *model, windows);
  for (const double kl : apart.divergence.kl.windows) EXPECT_GT(kl, 0);
  EXPECT_GE(apart.divergence.percentile_99, apart.divergence.kl.mean());
  EXPECT_LT(apart.divergence.top1_agreement, 1);
  EXPECT_EQ(apart.reference.nll.windows, itself.model.nll.windows);
  Checkpoint larger = random_checkpoint(3, 65);
  const auto wider = RuntimeModel::from_checkpoint(larger, {.threads = 1});
  EXPECT_THROW(compare_models(*wider, *model, windows), Error);
}

TEST(Stories260K, LossOnItsOwnGreedyTextIsTheKnownOne) {
  const std::filesystem::path folder = SCALEBITS_SOURCE_DIR "/../shared/models/stories260K";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "NOT TESTED: " << folder << " is not there";
  const auto text = MappedFile::open(folder / "golden_greedy_200tok.txt");
  const RuntimeOptions options{.activations = ActivationFormat::f32};
  const auto gguf = RuntimeModel::open(folder / "stories260Ktok512.f32.gguf", options);
  const auto hf = RuntimeModel::open(folder / "hf", options);
  const std::vector<std::int32_t> ids = gguf->require_tokenizer().encode(
      {reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size()}, {.add_bos = true});
  const TextWindows windows = cut_windows(ids, {.context = static_cast<std::int64_t>(ids.size())});
  for (RuntimeModel* model : {gguf.get(), hf.get()}) {
    SCOPED_TRACE(model->source());
    // 512 is what it was trained with; its files say 128, less than this text.
    const PerplexityResult result = measure_perplexity(*model, windows, {.max_positions = 512});
    // The known figure has six digits; the pass itself rounds to about 2^-23 * 1000 operations of size 10. Keys and
    // values are kept as f16: each of 5 layers errs by at most 2^-11 of what its attention adds, which moves a token's
    // loss by about as many nats; the errors of 199 tokens are independent.
    EXPECT_NEAR(result.nll.mean(), 0.473418, 1e-6 + 1000 * 0x1p-23 * 0.1 + 5 * 0x1p-11 / std::sqrt(199.0));
  }
}

}  // namespace
}  // namespace scalebits
