// The search end to end on a tiny random Llama and a tiny random OPT: budgets are met, the packed file computes what
// the search measured under every reordering, and a search resumed after any step ends in the same plan.
#include "artifact/artifact.h"
#include "artifact/verify_artifact.h"
#include "core/random.h"
#include "graph/artifact_weights.h"
#include "graph/decoder.h"
#include "pack/pack_model.h"
#include "pipeline/search.h"
#include "pipeline/search_state.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

Checkpoint random_checkpoint(bool tied, bool biases, Family family = Family::llama) {
  Checkpoint checkpoint;
  checkpoint.spec = {.family = Family::llama,
                     .layers = 2,
                     .hidden = 64,
                     .intermediate = 172,
                     .heads = 8,
                     .kv_heads = 4,
                     .head_dim = 8,
                     .vocab = 128,
                     .max_positions = 64};
  checkpoint.spec.tied_head = tied;
  checkpoint.spec.qkv_bias = checkpoint.spec.o_bias = checkpoint.spec.mlp_bias = biases;
  if (family == Family::opt) {
    ModelSpec& spec = checkpoint.spec;
    spec.family = family;
    spec.norm = NormKind::layer, spec.mlp = MlpKind::relu;
    spec.positions = PositionKind::learned, spec.position_offset = 2;
    // As many weights of linear layers as with a gate, so that budgets are the same.
    spec.intermediate = 258;
  }
  std::uint64_t stream = 0;
  for (const TensorShape& tensor : required_tensors(checkpoint.spec)) {
    std::int64_t count = 1;
    for (const std::int64_t extent : tensor.shape) count *= extent;
    std::vector<float> values(static_cast<std::size_t>(count));
    const CounterRng rng(11, stream++);
    const bool is_norm = tensor.name.find("norm") != std::string::npos;
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(is_norm ? 1 + 0.1 * rng.normal(i) : 0.12 * rng.normal(i) * (1 + (i % 7 == 0)));
    // Through f16, so that storing the unquantised tensors in 16 bits changes nothing.
    for (float& value : values) value = f16_to_f32(f32_to_f16(value));
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::move(values));
  }
  checkpoint.source = "random";
  checkpoint.hash = "random";
  return checkpoint;
}

CalibrationSet random_calibration() {
  const auto windows = [](std::int64_t count, std::uint64_t stream) {
    at::Tensor ids = at::empty({count, 32}, at::kLong);
    const CounterRng rng(3, stream);
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), 128));
    return ids;
  };
  return {windows(12, 1), windows(4, 2), "calibration"};
}

Recipe small_recipe() {
  Recipe recipe;
  recipe.bpw = 3.0;
  recipe.embedding = EmbeddingMode::sixteen_bits;
  recipe.windows_per_gradient = 4;
  recipe.descent_steps = 3;
  recipe.swap_steps = 2;
  return recipe;
}

/// The size of the whole file or of the linear layers, as `quantize` counts it.
Budget budget_for(const Checkpoint& checkpoint, const Recipe& recipe, std::uint64_t bytes) {
  return {bytes, [&](const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan) {
            ArtifactDescription description = describe_artifact(checkpoint, partition, matrices, to_json(recipe));
            set_widths(description, matrices, plan);
            const ArtifactSizes sizes = artifact_sizes(description);
            return recipe.bpw ? sizes.linear_bytes : sizes.file();
          }};
}

constexpr std::uint64_t kLinearWeights = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 172);

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
  write_packed_model(path, description, checkpoint, result.state.partition, result.matrices, {});
  EXPECT_EQ(fs::file_size(path), artifact_file_bytes(description));
  EXPECT_TRUE(!recipe.budget_bytes || fs::file_size(path) <= bytes);
  EXPECT_NO_THROW(verify_artifact(path));

  const auto artifact = std::make_shared<const Artifact>(Artifact::open(path));
  ArtifactWeights packed(artifact);
  SearchModel searched(checkpoint, result.matrices);
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

}  // namespace
}  // namespace scalebits
