// Contract of the evaluate room: windows are cut as documented, means and errors are those of the definition, a model
// does not diverge from itself, and a real model's loss on a text is the known one.
#include "evaluate/kl.h"
#include "evaluate/open_model.h"
#include "evaluate/perplexity.h"

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/random.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

namespace scalebits {
namespace {

Checkpoint random_checkpoint(std::uint64_t seed) {
  Checkpoint checkpoint;
  checkpoint.spec = {.family = Family::llama,
                     .layers = 2,
                     .hidden = 32,
                     .intermediate = 48,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = 8,
                     .vocab = 64,
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
  const at::Tensor plain = cut_windows(ids, {.context = 5});
  ASSERT_EQ(plain.size(0), 4) << "the last 3 tokens do not fill a window";
  for (std::int64_t i = 0; i < 20; ++i) EXPECT_EQ(plain.const_data_ptr<std::int64_t>()[i], i);
  EXPECT_EQ(cut_windows(ids, {.context = 5, .max_windows = 2}).size(0), 2);
  const at::Tensor with_bos = cut_windows(ids, {.context = 5, .bos = 99});
  ASSERT_EQ(with_bos.size(0), 5) << "BOS takes the place of one token";
  EXPECT_EQ(with_bos.const_data_ptr<std::int64_t>()[5], 99);
  EXPECT_EQ(with_bos.const_data_ptr<std::int64_t>()[6], 4);
  EXPECT_THROW(cut_windows(ids, {.context = 24}), Error);
  EXPECT_THROW(cut_windows(ids, {.context = 1}), Error);
}

TEST(WindowMeans, MeanAndStandardError) {
  const WindowMeans means{{1, 2, 3, 6}};
  EXPECT_DOUBLE_EQ(means.mean(), 3);
  EXPECT_DOUBLE_EQ(means.standard_error(), std::sqrt((4 + 1 + 0 + 9) / 3.0 / 4));
  EXPECT_DOUBLE_EQ((PerplexityResult{means}.perplexity()), std::exp(3.0));
  EXPECT_EQ((WindowMeans{{5}}.standard_error()), 0);
}

TEST(Perplexity, IsTheMeanOfTheWindowsHoweverTheyAreBatched) {
  const Checkpoint checkpoint = random_checkpoint(1);
  CheckpointWeights weights(checkpoint);
  Decoder decoder(checkpoint.spec, weights);
  // More windows than one batch takes.
  const std::int64_t context = 64, count = kTokensPerBatch / context + 3;
  const at::Tensor windows = cut_windows(some_ids(static_cast<std::size_t>(count * context)), {.context = context});
  const PerplexityResult result = measure_perplexity(decoder, windows);
  ASSERT_EQ(result.nll.windows.size(), static_cast<std::size_t>(count));
  for (const std::int64_t window : {std::int64_t{0}, count - 1}) {
    const double alone = decoder.loss(windows.narrow(0, window, 1), {}).mean;
    // Products of another size may sum in another order: a few hundred f32 roundings of logits of size about 10.
    EXPECT_NEAR(result.nll.windows[static_cast<std::size_t>(window)], alone, 300 * 0x1p-23 * 10);
  }
}

TEST(CompareModels, ItselfIsZeroAnotherIsNot) {
  const Checkpoint checkpoint = random_checkpoint(1), other = random_checkpoint(2);
  CheckpointWeights weights(checkpoint), other_weights(other);
  Decoder decoder(checkpoint.spec, weights), same(checkpoint.spec, weights), different(other.spec, other_weights);
  const at::Tensor windows = cut_windows(some_ids(200), {.context = 20});
  const Comparison itself = compare_models(decoder, same, weights, windows);
  for (const double kl : itself.divergence.kl.windows) EXPECT_EQ(kl, 0);
  EXPECT_EQ(itself.divergence.top1_agreement, 1);
  EXPECT_EQ(itself.divergence.percentile_99, 0);
  EXPECT_EQ(itself.model.nll.windows, itself.reference.nll.windows);
  const Comparison apart = compare_models(different, same, weights, windows);
  for (const double kl : apart.divergence.kl.windows) EXPECT_GT(kl, 0);
  EXPECT_GE(apart.divergence.percentile_99, apart.divergence.kl.mean());
  EXPECT_LT(apart.divergence.top1_agreement, 1);
  EXPECT_EQ(apart.reference.nll.windows, itself.model.nll.windows);
}

TEST(OpenModel, NamesWhatItCannotOpen) { EXPECT_THROW(open_model("no such model"), Error); }

TEST(Stories260K, LossOnItsOwnGreedyTextIsTheKnownOne) {
  const std::filesystem::path folder = SCALEBITS_SOURCE_DIR "/../shared/models/stories260K";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "NOT TESTED: " << folder << " is not there";
  const auto text = MappedFile::open(folder / "golden_greedy_200tok.txt");
  const OpenedModel gguf = open_model(folder / "stories260Ktok512.f32.gguf");
  const OpenedModel hf = open_model(folder / "hf");
  const std::vector<std::int32_t> ids = gguf.require_tokenizer().encode(
      {reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size()}, {.add_bos = true});
  const at::Tensor windows = cut_windows(ids, {.context = static_cast<std::int64_t>(ids.size())});
  for (const OpenedModel* model : {&gguf, &hf}) {
    SCOPED_TRACE(model->path);
    ModelSpec spec = model->spec;
    spec.max_positions = 512;  // what it was trained with; its files say 128, less than this text
    Decoder decoder(spec, *model->weights);
    // The known figure has six digits; the pass itself rounds to about 2^-23 * 1000 operations of size 10.
    EXPECT_NEAR(measure_perplexity(decoder, windows).nll.mean(), 0.473418, 1e-6 + 1000 * 0x1p-23 * 0.1);
  }
}

}  // namespace
}  // namespace scalebits
