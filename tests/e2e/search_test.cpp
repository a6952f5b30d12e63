// The search end to end on a tiny random Llama and a tiny random OPT: budgets are met, the packed file computes what
// the search measured under every reordering, and a search resumed after any step ends in the same plan.
#include "random_job.h"

#include "artifact/artifact.h"
#include "artifact/verify_artifact.h"
#include "graph/artifact_weights.h"
#include "graph/decoder.h"
#include "pipeline/search_state.h"
#include "pipeline/width_rules.h"
#include "refine/refine_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

class EveryReordering : public testing::TestWithParam<std::tuple<Reordering, bool, Family>> {};

TEST_P(EveryReordering, ThePackedFileComputesWhatTheSearchMeasured) {
  const auto [reordering, searched_embedding, family] = GetParam();
  const Checkpoint checkpoint = random_checkpoint(searched_embedding, true, family);
  Recipe recipe = small_recipe();
  recipe.reordering = reordering;
  std::uint64_t bytes = kLinearWeights * 36 / 80;  // 3.6 bits
  if (searched_embedding) {
    recipe.bpw.reset();
    recipe.budget_bytes = bytes = 52'000;
    recipe.embedding = EmbeddingMode::search;
  }
  const Budget budget = budget_for(checkpoint, recipe, bytes);
  const CalibrationSet calibration = random_calibration();
  const SearchResult result = run_search(checkpoint, calibration, recipe, budget, {}, {});
  const std::uint64_t stored = budget.stored_bytes(result.state.partition, result.matrices, result.state.plan);
  EXPECT_LE(stored, bytes);
  EXPECT_GT(stored + 16 * 64 / 8 + 64, bytes) << "one more bit for some block would fit";

  ArtifactDescription description =
      describe_artifact(checkpoint, result.state.partition, result.matrices, to_json(recipe));
  set_widths(description, result.matrices, result.state.plan);
  const fs::path path = fs::path(testing::TempDir()) / fmt::format("search_{}_{}_{}.safetensors", name_of(family),
                                                                   name_of(reordering), searched_embedding);
  // Every other case with feedback, so that both ways of rounding are packed under every order.
  PackedBlobs blobs(result.matrices.size());
  CheckpointWeights exact(checkpoint);
  if (!searched_embedding)
    blobs = round_with_feedback(checkpoint, exact, result.matrices, result.state.plan, calibration.gradient_windows, {},
                                {});
  write_packed_model(
      path, description, checkpoint, result.state.partition, result.matrices,
      [&](std::size_t i, auto blob) { pack_refined(result.matrices, result.state.plan, blobs, i, blob); });
  EXPECT_EQ(fs::file_size(path), artifact_file_bytes(description));
  EXPECT_TRUE(!recipe.budget_bytes || fs::file_size(path) <= bytes);
  EXPECT_NO_THROW(verify_artifact(path));

  const auto artifact = std::make_shared<const Artifact>(Artifact::open(path));
  ArtifactWeights packed(artifact);
  RefinedModel searched(checkpoint, result.matrices, blobs);
  searched.use(result.state.plan);
  const double from_file = Decoder(artifact->spec(), packed).loss(calibration.validation_windows, {}).mean;
  const double from_search = Decoder(checkpoint.spec, searched).loss(calibration.validation_windows, {}).mean;
  // The same products summed in another channel order: relative error of a few f32 roundings per layer, far below 1e-5.
  EXPECT_NEAR(from_file, from_search, 1e-5 * from_search);
}

INSTANTIATE_TEST_SUITE_P(All, EveryReordering,
                         testing::Combine(testing::Values(Reordering::none, Reordering::folded, Reordering::site,
                                                          Reordering::free),
                                          testing::Bool(), testing::Values(Family::llama, Family::opt)));

TEST(Search, ResumedAfterAnyStepEndsInTheSamePlan) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  Recipe recipe = small_recipe();
  recipe.swap_steps = 8;  // enough for swaps that are rejected, whose blocks then rest
  const Budget budget = budget_for(checkpoint, recipe, kLinearWeights * 34 / 80);
  const CalibrationSet calibration = random_calibration();
  const Provenance provenance{checkpoint.hash, calibration.hash, to_json(recipe)};
  const fs::path folder = fs::path(testing::TempDir()) / "states";
  fs::create_directories(folder);
  int saved = 0;
  bool held = false;
  SearchCallbacks callbacks;
  callbacks.save_state = [&](const SearchState& state) {
    held = held || !state.held.widths.empty();
    save_search_state(folder / fmt::format("{}", saved++), state, provenance);
  };
  const SearchResult whole = run_search(checkpoint, calibration, recipe, budget, {}, callbacks);
  ASSERT_GE(saved, 5);
  ASSERT_TRUE(held) << "no swap was rejected";
  for (int step = 0; step < saved; ++step) {
    SavedSearch saved_search = load_search_state(folder / fmt::format("{}", step));
    EXPECT_NO_THROW(require_same(saved_search.provenance, provenance, folder));
    const SearchResult resumed = run_search(checkpoint, calibration, recipe, budget, std::move(saved_search.state), {});
    ASSERT_EQ(resumed.state.plan, whole.state.plan) << "resumed after save " << step;
    ASSERT_EQ(resumed.state.best_validation_loss, whole.state.best_validation_loss);
  }
  Provenance other = provenance;
  other.checkpoint_hash = "another";
  EXPECT_THROW(require_same(load_search_state(folder / "0").provenance, other, folder), Error);
}

TEST(Search, AFrontierGivesAPlanForAnotherBudget) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  const Recipe recipe = small_recipe();
  const CalibrationSet calibration = random_calibration();
  SearchResult low =
      run_search(checkpoint, calibration, recipe, budget_for(checkpoint, recipe, kLinearWeights * 29 / 80), {}, {});
  const Budget higher = budget_for(checkpoint, recipe, kLinearWeights * 36 / 80);
  const SearchResult taken = plan_from_frontier(checkpoint, calibration, recipe, higher, low.state, {});
  const std::uint64_t stored = higher.stored_bytes(taken.state.partition, taken.matrices, taken.state.plan);
  EXPECT_LE(stored, higher.bytes);
  EXPECT_GT(stored + 16 * 64 / 8 + 64, higher.bytes);
  EXPECT_THROW(plan_from_frontier(checkpoint, calibration, recipe, budget_for(checkpoint, recipe, kLinearWeights),
                                  low.state, {}),
               Error);
}

TEST(Search, InterruptionKeepsTheStateAndInfeasibleBudgetsSayWhatIsFeasible) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  const Recipe recipe = small_recipe();
  const CalibrationSet calibration = random_calibration();
  try {
    run_search(checkpoint, calibration, recipe, budget_for(checkpoint, recipe, 1), {}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::infeasible_budget);
    EXPECT_NE(std::string(error.what()).find("feasible are"), std::string::npos);
  }
  SearchCallbacks callbacks;
  int saves = 0;
  callbacks.save_state = [&](const SearchState&) {
    if (++saves == 2) interrupt_requested = true;
  };
  try {
    run_search(checkpoint, calibration, recipe, budget_for(checkpoint, recipe, kLinearWeights * 34 / 80), {},
               callbacks);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::interrupted);
  }
  interrupt_requested = false;
  EXPECT_EQ(saves, 2);
}

TEST(Search, AnEmbeddingMayBeWiderThanTheWidestLayer) {
  const Checkpoint checkpoint = random_checkpoint(true, false);
  Recipe recipe = small_recipe();
  recipe.bpw.reset();
  recipe.budget_bytes = 37'000;
  recipe.embedding = EmbeddingMode::search;
  recipe.max_width = 2, recipe.min_embedding_width = 4;
  const Budget budget = budget_for(checkpoint, recipe, *recipe.budget_bytes);
  const SearchResult result = run_search(checkpoint, random_calibration(), recipe, budget, {}, {});
  EXPECT_LE(budget.stored_bytes(result.state.partition, result.matrices, result.state.plan), budget.bytes);
  for (std::size_t m = 0; m < result.matrices.size(); ++m)
    for (const int width : result.state.plan.widths[m]) {
      const bool is_embedding = is_vocabulary(result.matrices[m]->name());
      EXPECT_GE(width, is_embedding ? 4 : 1);
      EXPECT_LE(width, is_embedding ? 4 : 2);
    }
}

TEST(Search, FeasibilityIsFoundWithoutCodes) {
  const Checkpoint checkpoint = random_checkpoint(false, false);
  const Recipe recipe = small_recipe();
  Budget budget = budget_for(checkpoint, recipe, kLinearWeights * 34 / 80);
  int asked = 0;
  const auto stored_bytes = budget.stored_bytes;
  budget.stored_bytes = [&](const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan) {
    ++asked;
    for (const auto& matrix : matrices) EXPECT_FALSE(matrix && matrix->has_codes()) << "a quarter of a byte per weight";
    return stored_bytes(partition, matrices, plan);
  };
  require_feasible(checkpoint, recipe, budget);
  EXPECT_GT(asked, 0);
}

}  // namespace
}  // namespace scalebits
