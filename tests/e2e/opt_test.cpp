// An OPT from its Hugging Face folder to an artifact that runs: names, LayerNorms, learned positions, an MLP without
// gate and a tokenizer that begins texts go through the whole job, and the runtime and torch agree on the file.
#include "../unit/tiny_models.h"
#include "artifact/artifact.h"
#include "artifact/verify_artifact.h"
#include "checkpoint/read_checkpoint.h"
#include "evaluate/perplexity.h"
#include "graph/artifact_weights.h"
#include "graph/decoder.h"
#include "pipeline/quantize.h"
#include "tokenizer/tokenizer.h"
#include "writing/text_writer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace scalebits {
namespace {

namespace fs = std::filesystem;
using testing_models::TemporaryFolder;

/// In the proportions of the real ones: an MLP four times as wide as the stream, a tied head, rows enough for the
/// tokenizer's 420 tokens and some that nobody uses.
void write_opt(const fs::path& folder) {
  ModelSpec spec = testing_models::tiny_spec(Family::opt);
  spec.layers = 3, spec.hidden = 64, spec.intermediate = 256, spec.heads = spec.kv_heads = 4, spec.head_dim = 16;
  spec.vocab = 424, spec.max_positions = 48, spec.tied_head = true;
  auto model = testing_models::random_model(spec, 21);
  for (auto& [name, values] : model.weights) {
    const bool is_norm = name.find("norm.weight") != std::string::npos;
    for (float& value : values) value = is_norm ? 1 + value / 8 : value / 8;
  }
  testing_models::write_hf(model, folder);
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json"})
    fs::copy_file(fs::path(SCALEBITS_SOURCE_DIR "/tests/data/tokenizer/opt") / name, folder / name);
}

TEST(Opt, QuantisesToABudgetAndRuns) {
  const TemporaryFolder folder;
  write_opt(folder / "hf");
  QuantizeJob job{.model = folder / "hf", .output = folder / "small.safetensors"};
  job.recipe.budget_bytes = 110'000;
  job.recipe.windows_per_gradient = 4, job.recipe.validation_windows = 4, job.recipe.window_length = 32;
  job.recipe.descent_steps = 2, job.recipe.swap_steps = 2;
  const QuantizeReport report = quantize(job, {});
  EXPECT_EQ(fs::file_size(job.output), report.sizes.file());
  EXPECT_LE(report.sizes.file(), 110'000u);
  EXPECT_GT(report.sizes.file(), 109'000u);
  EXPECT_NO_THROW(verify_artifact(job.output));

  const auto artifact = std::make_shared<const Artifact>(Artifact::open(job.output));
  const Checkpoint checkpoint = read_checkpoint(folder / "hf");
  EXPECT_EQ(to_json(artifact->spec()), to_json(checkpoint.spec));
  EXPECT_EQ(artifact->find_matrix(linear_name(0, LinearKind::gate)), nullptr);
  for (std::int64_t layer = 0; layer < 3; ++layer)
    for (const LinearKind kind : linear_kinds(artifact->spec()))
      EXPECT_NE(artifact->find_matrix(linear_name(layer, kind)), nullptr) << linear_name(layer, kind);

  // The model's own text: the tokens that a search on such text must keep.
  const TextWindows windows = cut_windows(checkpoint.tokenizer->encode(std::string(400, 'x') + " the dog and the word"),
                                          {.context = 40, .max_windows = 2});
  at::Tensor ids = at::empty({windows.count(), windows.context}, at::kLong);
  std::copy(windows.ids.begin(), windows.ids.end(), ids.data_ptr<std::int64_t>());
  ArtifactWeights weights(artifact);
  const LossResult torch = Decoder(artifact->spec(), weights).loss(ids, {});
  const auto exact = RuntimeModel::from_artifact(artifact, {.activations = ActivationFormat::f32});
  const auto rounded = RuntimeModel::from_artifact(artifact, {.activations = ActivationFormat::i8});
  // Keys and values as f16 move a loss of some nats by some 2^-11 of itself; 8-bit activations by some 2^-7.
  EXPECT_NEAR(measure_perplexity(*exact, windows).nll.mean(), torch.mean, 0x1p-10 * torch.mean);
  EXPECT_NEAR(measure_perplexity(*rounded, windows).nll.mean(), torch.mean, 0x1p-5 * torch.mean);

  Session session(*exact);
  TextWriter writer(session, exact->require_tokenizer(), {});
  const auto prompt = exact->require_tokenizer().encode("the dog", {.add_bos = true});
  EXPECT_EQ(prompt.front(), 2) << "</s> begins OPT's texts";
  EXPECT_LE(writer.write(prompt, 8, [](std::string_view) {}).tokens.size(), 8u);
  EXPECT_EQ(session.max_positions(), 48);
}

}  // namespace
}  // namespace scalebits
