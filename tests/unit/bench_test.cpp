// Contract of src/bench/: a width mix is read strictly and placed exactly; a random artifact is one that `verify` and
// every reader takes, the same bytes whatever the number of threads, with weights of variance about 1 / inputs; lengths
// that a model does not hold are refused where they were asked for; weights that the disk does not hold are not begun.
#include "artifact/artifact.h"
#include "artifact/verify_artifact.h"
#include "bench/model_bench.h"
#include "bench/random_artifact.h"
#include "bench/weight_pool.h"
#include "bench/width_mix.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "tiny_models.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace scalebits {
namespace {

RandomArtifactOptions tiny_options() {
  RandomArtifactOptions options;
  options.layers = 2, options.hidden = 96, options.intermediate = 200, options.heads = 6, options.kv_heads = 2;
  options.vocab = 77;
  return options;
}

TEST(WidthMix, ReadsOneWidthOrShares) {
  EXPECT_EQ(WidthMix::parse("3").share, WidthMix::uniform(3).share);
  const WidthMix mix = WidthMix::parse("2:0.5,4:0.25,0:0.25");
  EXPECT_EQ(mix.share[2], 0.5);
  EXPECT_EQ(mix.share[0], 0.25);
  EXPECT_EQ(mix.mean_width(), 2.0);
  EXPECT_EQ(WidthMix::parse(mix.text()).share, mix.share);
}

TEST(WidthMix, RefusesWhatIsNoMix) {
  for (const char* text : {"", "9", "-1", "2:", ":1", "2:0.5", "2:0.5,2:0.5", "2:1.5,3:-0.5", "2:nan", "2:1,", "x:1"})
    EXPECT_THROW(WidthMix::parse(text), Error) << text;
}

TEST(WidthMix, PlacesItsSharesToTheBlock) {
  const MatrixFormat format{.rows = 160, .cols = 640, .block_rows = 16};  // 100 blocks
  const auto widths = random_widths(format, WidthMix::parse("2:0.66,3:0.22,4:0.11,8:0.01"), 1, 2);
  std::array<int, kMaxWidth + 1> count{};
  for (const std::uint8_t width : widths) ++count[width];
  EXPECT_EQ(count, (std::array<int, kMaxWidth + 1>{0, 0, 66, 22, 11, 0, 0, 0, 1}));
  EXPECT_NE(widths, random_widths(format, WidthMix::parse("2:0.66,3:0.22,4:0.11,8:0.01"), 2, 2));
}

TEST(RandomArtifact, IsAnArtifactWhateverItsOptions) {
  const testing_models::TemporaryFolder folder;
  for (const RandomOrders orders : {RandomOrders::none, RandomOrders::site, RandomOrders::free})
    for (const int head_bits : {5, 16})
      for (const int block_rows : {16, 64}) {
        RandomArtifactOptions options = tiny_options();
        options.orders = orders, options.head_bits = head_bits, options.block_rows = block_rows;
        options.tied_head = head_bits == 16;
        write_random_artifact(folder / "a", options, [](std::uint64_t) {});
        verify_artifact(folder / "a");
        const Artifact artifact = Artifact::open(folder / "a");
        EXPECT_EQ(artifact.sizes().file(), artifact_file_bytes(describe_random_artifact(options)));
        EXPECT_EQ(artifact.matrices().size(), head_bits == 16 ? 14u : 16u);
        EXPECT_EQ(artifact.matrices().back().row_order.empty(), orders == RandomOrders::none || head_bits != 16);
      }
}

TEST(RandomArtifact, DoesNotDependOnTheNumberOfThreads) {
  const testing_models::TemporaryFolder folder;
  const int before = thread_count();
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    write_random_artifact(folder / std::to_string(threads), tiny_options(), [](std::uint64_t) {});
  }
  set_thread_count(before);
  EXPECT_EQ(hash_hex(MappedFile::open(folder / "1")->bytes()), hash_hex(MappedFile::open(folder / "3")->bytes()));
}

// The mean square over many groups lies near 1 / cols: ranges of groups differ by up to 2^7.875, so what one group adds
// varies by about 2.4 times the mean (64 ranges in geometric steps), and 5 standard errors of it are allowed; offsets
// of the zeros add up to a fourth.
TEST(RandomArtifact, KeepsTheSizeOfActivations) {
  const testing_models::TemporaryFolder folder;
  RandomArtifactOptions options = tiny_options();
  options.hidden = 384, options.widths = WidthMix::uniform(4);
  write_random_artifact(folder / "a", options, [](std::uint64_t) {});
  const std::vector<float> weights = Artifact::open(folder / "a").dequantize("model.layers.0.self_attn.q_proj.weight");
  double squares = 0;
  for (const float weight : weights) squares += double(weight) * weight;
  const double groups = 384 * 6, error = 5 * 2.4 / std::sqrt(groups);
  const double relative = squares / double(weights.size()) * 384;
  EXPECT_GT(relative, 1 - error);
  EXPECT_LT(relative, 1.3 + error);
}

TEST(RandomArtifact, RefusesImpossibleArchitectures) {
  RandomArtifactOptions options = tiny_options();
  options.heads = 5;
  EXPECT_THROW(describe_random_artifact(options), Error);
  EXPECT_THROW(apply_preset("7b", options), Error);
}

TEST(ModelBench, CutsOnlyLengthsThatNobodyAskedFor) {
  const testing_models::TemporaryFolder folder;
  RandomArtifactOptions artifact = tiny_options();
  artifact.max_positions = 100;
  write_random_artifact(folder / "a", artifact, [](std::uint64_t) {});
  ModelBenchOptions options = cut_to_positions(folder / "a", {});
  EXPECT_EQ(options.tokens, 64);
  EXPECT_EQ(options.prompts, std::vector<std::int64_t>{100});
  EXPECT_EQ(options.contexts, (std::vector<std::int64_t>{0, 36}));
  const auto message = [&](const ModelBenchOptions& asked) -> std::string {
    try {
      cut_to_positions(folder / "a", asked);
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      return error.what();
    }
  };
  const auto ends_with = [](const std::string& text, const char* end) { return text.ends_with(end); };
  EXPECT_PRED2(ends_with, message({.prompts = {5, 101}, .prompts_asked = true}),
               "has 100 positions, and a prompt of 101 is wanted");
  EXPECT_PRED2(ends_with, message({.tokens = 101, .tokens_asked = true}),
               "has 100 positions, and writing 101 tokens is wanted");
  EXPECT_PRED2(ends_with, message({.contexts = {90}, .tokens = 11, .contexts_asked = true, .tokens_asked = true}),
               "has 100 positions, and writing 11 tokens after 90 is wanted");
  EXPECT_EQ(message({.prompts = {100}, .contexts = {90}, .tokens = 10, .prompts_asked = true, .contexts_asked = true}),
            "");
}

TEST(WeightPool, IsNotBegunWhereTheDiskHasNoRoom) {
  const testing_models::TemporaryFolder folder;
  ThreadPool threads(1);
  const std::uint64_t bytes = std::filesystem::space(folder.path()).available + (std::uint64_t{1} << 40);
  try {
    WeightPool(WeightPool::Pages::ordinary, folder.path(), bytes, threads);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_NE(std::string(error.what()).find("are free"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace scalebits
