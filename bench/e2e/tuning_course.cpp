// How far the rounded model is from full precision along one tuning, on text that the job has not seen; a plan from a
// search's frontier, rounded with GPTQ first.
//   bench_tuning_course MODEL FRONTIER CALIBRATION HELD_OUT [steps=60] [rate=0.004] [windows=2] [every=10]
//   [feedback_windows=64] [damping=0.1] [asymmetry=0.5] [sweeps=4]
// FRONTIER: from `scalebits quantize MODEL --save-frontier`, with the same CALIBRATION. HELD_OUT is cut into windows of
// the same length, of which the first twelve of a shuffle are measured.
#include "random_decoder.h"

#include "checkpoint/read_checkpoint.h"
#include "core/error.h"
#include "core/parallel.h"
#include "format/packed_matrix.h"
#include "pipeline/calibration.h"
#include "pipeline/search.h"
#include "pipeline/search_state.h"
#include "pipeline/stored_size.h"
#include "refine/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>

using namespace scalebits;
using namespace scalebits::random_decoder;

namespace {

constexpr int kMeasuredWindows = 12;

double percent_changed(const RoundedMatrices& matrices, const PackedBlobs& before, const PackedBlobs& after) {
  std::size_t changed = 0, all = 0;
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (before[m].empty() || after[m].empty()) continue;
    const auto codes = [&](const PackedBlobs& blobs) {
      return unpack(PackedMatrix(matrices[m]->format(), blobs[m], matrices[m]->name())).codes;
    };
    const auto first = codes(before), now = codes(after);
    for (std::size_t i = 0; i < first.size(); ++i) changed += first[i] != now[i];
    all += first.size();
  }
  return 100 * static_cast<double>(changed) / static_cast<double>(std::max<std::size_t>(1, all));
}

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 5)
    fail(ErrorKind::usage, "usage: bench_tuning_course MODEL FRONTIER CALIBRATION HELD_OUT [OPTION=VALUE…]");
  auto given = options_of(argc - 2, argv + 2,
                          {{"steps", "60"},
                           {"rate", "0.004"},
                           {"windows", "2"},
                           {"every", "10"},
                           {"feedback_windows", "64"},
                           {"damping", "0.1"},
                           {"asymmetry", "0.5"},
                           {"sweeps", "4"}});
  const Checkpoint checkpoint = read_checkpoint(argv[1]);
  SavedSearch saved = load_search_state(argv[2]);
  const Recipe recipe = recipe_from_json(saved.provenance.recipe, {}, argv[2]);
  CalibrationSet calibration = calibration_from_text(checkpoint, {argv[3]}, recipe);
  Recipe measured = recipe;
  measured.validation_windows = kMeasuredWindows;
  measured.windows_per_gradient = 1;
  const at::Tensor text = calibration_from_text(checkpoint, {argv[4]}, measured).validation_windows;

  StoredSize stored(checkpoint, recipe);
  calibration.validation_windows = at::Tensor();
  const SearchResult result =
      plan_from_frontier(checkpoint, calibration, recipe, {budget_bytes(checkpoint.spec, recipe), std::ref(stored)},
                         std::move(saved.state), {});
  CheckpointWeights exact(checkpoint);
  Decoder full_precision(checkpoint.spec, exact);
  const LossTarget target{LossTarget::Kind::kl, full_precision.hidden(text), exact.head()};
  auto start = std::chrono::steady_clock::now();
  PackedBlobs rounded(result.matrices.size());
  const auto report = [&](std::string_view what, const PackedBlobs& blobs) {
    const double seconds = seconds_since(start);
    RefinedModel model(checkpoint, result.matrices, blobs);
    model.use(result.state.plan);
    fmt::print("{}: KL {:.4f}, {:.2f} % of the codes changed, {:.0f} s\n", what,
               Decoder(checkpoint.spec, model).loss(text, target).mean,
               percent_changed(result.matrices, rounded, blobs), seconds);
    std::fflush(stdout);
  };
  report("nearest", rounded);
  const at::Tensor& ids = calibration.gradient_windows;
  const std::int64_t feedback_windows = std::min<std::int64_t>(std::stol(given["feedback_windows"]), ids.size(0));
  FeedbackOptions feedback = recipe.feedback;
  feedback.damping = std::stod(given["damping"]);
  feedback.asymmetry = std::stod(given["asymmetry"]);
  feedback.sweeps = std::stoi(given["sweeps"]);
  start = std::chrono::steady_clock::now();
  rounded = round_with_feedback(checkpoint, exact, result.matrices, result.state.plan,
                                ids.narrow(0, 0, feedback_windows).contiguous(), feedback, {});
  report("gptq", rounded);
  CodeTuner tuner(checkpoint, exact, result.matrices, result.state.plan, rounded, ids,
                  {.steps = std::stoi(given["steps"]),
                   .windows_per_step = std::stoi(given["windows"]),
                   .rate = std::stod(given["rate"])});
  start = std::chrono::steady_clock::now();
  while (tuner.steps_done() < tuner.steps()) {
    const double divergence = tuner.step();
    fmt::print("step {}: KL of its batch {:.4f}\n", tuner.steps_done(), divergence);
    if (tuner.steps_done() % std::stoi(given["every"]) == 0 || tuner.steps_done() == tuner.steps())
      report(fmt::format("after {} steps", tuner.steps_done()), tuner.blobs());
  }
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_tuning_course: {}\n", error.what());
  return 1;
}
