// The oracle of the search: classic greedy on a real toy model (stories260K), which raises one block at a time, the one
// whose measured loss falls most per byte. The batched search, which measures sixty swaps where greedy measures
// every possible raise before each of its own, must reach at least 90% of greedy's loss reduction at the same bytes.
// Skipped when the model is not there.
#include "checkpoint/read_checkpoint.h"
#include "graph/generate.h"
#include "pipeline/search.h"
#include "pipeline/width_rules.h"
#include "tokenizer/tokenizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace scalebits {
namespace {

const std::filesystem::path kModel = SCALEBITS_SOURCE_DIR "/../shared/models/stories260K/stories260Ktok512.f32.gguf";

TEST(Search, ReachesMostOfWhatClassicGreedyReaches) {
  if (!std::filesystem::exists(kModel)) GTEST_SKIP() << kModel << " is not there";
  const Checkpoint checkpoint = read_checkpoint(kModel);
  CheckpointWeights weights(checkpoint);
  SelfTextOptions text{.windows = 12, .length = 96, .seed = 5};
  text.start_token = checkpoint.tokenizer->bos();
  const at::Tensor ids = sample_own_text(checkpoint.spec, weights, text);
  // Greedy minimises the loss on these very tokens, so the search's swaps are judged on them too.
  const CalibrationSet calibration{ids, ids, "own"};

  Recipe recipe;
  recipe.bpw = 3.0;
  recipe.embedding = EmbeddingMode::sixteen_bits;
  recipe.reordering = Reordering::none;  // the same blocks for both
  recipe.blocks = {64, 64};
  recipe.windows_per_gradient = 12;
  recipe.descent_steps = 10;
  recipe.swap_steps = 60;
  recipe.min_swap_fraction = 1e-3;  // down to a single block
  recipe.score_memory = 0;          // every pass sees the same tokens
  const Partition partition = identity_partition(checkpoint.spec, false);

  // Greedy and search see the same importance of inputs: none.
  recipe.clip = ClipWeighting::plain;
  const RoundedMatrices matrices = round_matrices(checkpoint, partition, {}, recipe);
  SearchModel model(checkpoint, matrices);
  Decoder decoder(checkpoint.spec, model);
  const auto loss_of = [&](const BitPlan& plan) {
    model.use(plan);
    return decoder.loss(calibration.gradient_windows, {}).mean;
  };
  Choices choices;
  for (const auto& matrix : matrices) {
    const auto bytes = bytes_of_blocks(matrix->format());
    choices.push_back({std::vector<WidthScores>(bytes.size()), bytes, 1, 8});
  }
  const BitPlan start = uniform_plan(matrices, recipe, 2);
  const double start_loss = loss_of(start);
  const std::uint64_t budget_bytes =
      (bytes_of_plan(choices, start) + bytes_of_plan(choices, uniform_plan(matrices, recipe, 3))) / 2;  // 2.5 code bits

  BitPlan greedy = start;
  double greedy_loss = start_loss;
  for (bool raised = true; raised;) {
    raised = false;
    double best_value = 0;
    BitPlan best;
    double best_loss = 0;
    for (std::size_t m = 0; m < matrices.size(); ++m)
      for (std::size_t i = 0; i < greedy.widths[m].size(); ++i) {
        if (greedy.widths[m][i] >= 8) continue;
        BitPlan candidate = greedy;
        ++candidate.widths[m][i];
        const auto bytes = bytes_of_plan(choices, candidate);
        if (bytes > budget_bytes) continue;
        const double loss = loss_of(candidate);
        const double value = (greedy_loss - loss) / static_cast<double>(bytes - bytes_of_plan(choices, greedy));
        if (!raised || value > best_value) best_value = value, best = candidate, best_loss = loss, raised = true;
      }
    if (raised) greedy = best, greedy_loss = best_loss;
  }

  const Budget budget{
      bytes_of_plan(choices, greedy),
      [&](const Partition&, const RoundedMatrices&, const BitPlan& plan) { return bytes_of_plan(choices, plan); }};
  const SearchResult result = run_search(checkpoint, calibration, recipe, budget, {}, {});
  const double search_loss = loss_of(result.state.plan);
  RecordProperty("uniform_2", std::to_string(start_loss));
  RecordProperty("greedy", std::to_string(greedy_loss));
  RecordProperty("search", std::to_string(search_loss));
  std::printf("nats/token: uniform 2 bits %.4f, greedy %.4f, search %.4f; share of greedy's reduction %.3f\n",
              start_loss, greedy_loss, search_loss, (start_loss - search_loss) / (start_loss - greedy_loss));
  EXPECT_LE(bytes_of_plan(choices, result.state.plan), budget.bytes);
  EXPECT_GE(start_loss - search_loss, 0.9 * (start_loss - greedy_loss));
}

}  // namespace
}  // namespace scalebits
