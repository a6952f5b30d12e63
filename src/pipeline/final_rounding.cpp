#include "pipeline/final_rounding.h"

#include "core/hash.h"
#include "core/machine_memory.h"
#include "core/units.h"
#include "graph/sent_weights.h"
#include "pipeline/rounding_stages.h"
#include "pipeline/search_passes.h"
#include "pipeline/width_rules.h"
#include "refine/tune.h"
#include "refine/tuned_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace scalebits {
namespace {

constexpr double kSecondsBetweenSaves = 300;
constexpr double kPartBeforeTuning = 0.7;  // of the time that is left, at most: windows bring more than steps
constexpr int kTimedSteps = 2;  // before their number is fitted into the time: the first ones touch memory anew

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void stop_if_interrupted() {
  if (interrupt_requested) fail(ErrorKind::interrupted, "interrupted");
}

FeedbackOptions feedback_options(const FinalRoundingJob& job, const RoundingEngine& engine) {
  FeedbackOptions options = job.recipe.feedback;
  options.clip_search = job.recipe.clip != ClipWeighting::none;
  options.decoder = engine.decoder;
  return options;
}

/// Thrown after a first layer that took too long.
struct FewerWindows {
  std::int64_t count;
};

/// As many windows as `seconds` allow by what the first layer takes. A pipeline takes all: its stages, which round one
/// after the other, would have to agree.
PackedBlobs rounded_with_feedback(const FinalRoundingJob& job, const RoundingEngine& engine, double seconds,
                                  const ProgressSink& progress) {
  const at::Tensor& windows = job.calibration.gradient_windows;
  const auto layers = static_cast<double>(job.checkpoint.spec.layers);
  std::int64_t count = std::min<std::int64_t>(job.recipe.feedback_windows, windows.size(0));
  bool fitted = engine.decoder.pipeline != nullptr;
  for (;;) {
    const auto start = std::chrono::steady_clock::now();
    const auto on_layer = [&](std::int64_t layer) {
      stop_if_interrupted();
      if (layer == 1 && !std::exchange(fitted, true)) {
        const double affordable = static_cast<double>(count) * std::max(0.0, seconds) / (layers * seconds_since(start));
        if (affordable < static_cast<double>(count) && count > 1)
          throw FewerWindows{std::max<std::int64_t>(1, static_cast<std::int64_t>(affordable))};
      }
      if (progress) progress({static_cast<double>(layer) / layers, "rounding", fmt::format("layer {}", layer)});
    };
    try {
      return round_with_feedback(job.checkpoint, *engine.exact, job.result.matrices, job.result.state.plan,
                                 windows.narrow(0, 0, count).contiguous(), feedback_options(job, engine), on_layer);
    } catch (const FewerWindows& fewer) {
      if (progress)
        progress({-1, "time limit", fmt::format("windows for rounding: {} instead of {}", fewer.count, count)});
      count = fewer.count;
    }
  }
}

/// What a tuning's state belongs to.
Json provenance_of_tuning(const FinalRoundingJob& job) {
  Hasher plan;
  for (const auto& widths : job.result.state.plan.widths) plan.update(std::as_bytes(std::span(widths)));
  return {{"checkpoint", job.provenance.checkpoint_hash},
          {"calibration", job.provenance.calibration_hash},
          {"recipe", job.provenance.recipe},
          {"plan", plan.hex()}};
}

/// What the held-out windows say of a rounding; the stages of a pipeline ask together.
class HeldOutLoss {
 public:
  /// Keeps references to the arguments.
  HeldOutLoss(const FinalRoundingJob& job, const RoundingEngine& engine, const RoundingStages& stages)
      : job_(job), engine_(engine), stages_(stages), windows_(held_out_windows(job.calibration, job.result.state)) {
    Decoder full_precision(job.checkpoint.spec, *engine.exact, engine.decoder);
    target_ = loss_target(job.recipe.loss, windows_, full_precision, *engine.exact);
  }

  /// The first stage is given the others' blobs.
  FinalRounding of(PackedBlobs blobs) const {
    const BitPlan& plan = job_.result.state.plan;
    stages_.collect(blobs, job_.result.matrices, plan, job_.checkpoint.spec);
    RefinedModel model(job_.checkpoint, job_.result.matrices, blobs);
    model.use(plan);
    SentWeights rounded(model, engine_.decoder);
    Decoder decoder(job_.checkpoint.spec, rounded, engine_.decoder);
    const double loss = stages_.from_last(decoder.loss(windows_, target_).mean);
    return {std::move(blobs), loss};
  }

 private:
  const FinalRoundingJob& job_;
  const RoundingEngine& engine_;
  const RoundingStages& stages_;
  at::Tensor windows_;
  LossTarget target_;
};

/// Tuned codes, or those that tuning started from where the held-out windows say that it made them worse.
FinalRounding tuned(const FinalRoundingJob& job, const RoundingEngine& engine, const RoundingStages& stages,
                    const ProgressSink& progress) {
  const auto start = std::chrono::steady_clock::now();
  const std::filesystem::path path = job.folder / stages.file_name();
  const Json provenance = provenance_of_tuning(job);
  const bool resumed = !stages.any(!job.resume || !std::filesystem::exists(path));
  const HeldOutLoss held_out(job, engine, stages);
  const auto with_feedback = [&](double seconds, const ProgressSink& sink) {
    return held_out.of(rounded_with_feedback(job, engine, seconds, sink));
  };
  FinalRounding first{PackedBlobs(job.result.matrices.size())};
  if (!resumed) first = with_feedback(kPartBeforeTuning * job.seconds_left, part_of(progress, 0, 0.2));
  TuneOptions options = job.recipe.tune;
  options.decoder = engine.decoder;
  CodeTuner tuner(job.checkpoint, *engine.exact, job.result.matrices, job.result.state.plan, first.blobs,
                  job.calibration.gradient_windows, options);
  // All stages' states are there before any takes the place of the last one.
  const auto save = [&] {
    const std::filesystem::path next = path.string() + ".next";
    tuner.save(next, provenance, {{"first_loss", first.validation_loss}});
    stages.any(false);
    std::filesystem::rename(next, path);
  };
  if (resumed)
    first.validation_loss = json_value<double>(tuner.load(path, provenance), "first_loss", path.string());
  else
    save();
  if (stages.any(stages.from_first(tuner.steps_done()) != tuner.steps_done()))
    fail_input("{}: the stages of this tuning were saved at different steps; delete them, and it begins anew",
               (job.folder / "tuning-*.safetensors").string());
  const ProgressSink tune_progress = part_of(progress, 0.2, 1);
  auto saved = std::chrono::steady_clock::now(), first_timed = saved;
  const int steps_before = tuner.steps_done();
  while (tuner.steps_done() < tuner.steps()) {
    const bool interrupted = stages.any(interrupt_requested);
    if (interrupted || stages.from_first(seconds_since(saved)) > kSecondsBetweenSaves) {
      save();
      saved = std::chrono::steady_clock::now();
    }
    if (interrupted) fail(ErrorKind::interrupted, "interrupted");
    const double divergence = stages.from_last(tuner.step());
    const int done = tuner.steps_done();
    if (done == steps_before + kTimedSteps) {
      const double left = job.seconds_left - seconds_since(start);
      const double affordable =
          stages.from_first(done + std::max(0.0, left) * kTimedSteps / seconds_since(first_timed));
      if (affordable < tuner.steps()) {
        if (progress)
          progress({-1, "time limit",
                    fmt::format("tuning steps: {} instead of {}", std::max(done + 1, int(affordable)), tuner.steps())});
        tuner.shorten(static_cast<int>(affordable));
      }
    }
    if (tune_progress)
      tune_progress({done % 20 == 0 ? -1 : static_cast<double>(done) / tuner.steps(), "tuning",
                     fmt::format("step {} of {}, KL {:.4f}", done, tuner.steps(), divergence)});
  }
  FinalRounding found = held_out.of(tuner.blobs());
  const double before = first.validation_loss;
  if (!(found.validation_loss < before) && resumed)  // the state holds no codes to go back to
    first = with_feedback(job.seconds_left - seconds_since(start), part_of(progress, 1, 1));
  // Rounded anew under a time limit they may be of fewer windows, and worse than they were.
  const bool better = found.validation_loss < first.validation_loss;
  if (progress)
    progress({-1, "tuning",
              fmt::format("held-out loss {:.4f}, {:.4f} before it{}", found.validation_loss, before,
                          better ? "" : ": left out")});
  return better ? std::move(found) : std::move(first);
}

}  // namespace

void require_memory_for_rounding(const ModelSpec& spec, const Recipe& recipe, const PipelineStage* pipeline,
                                 int stages_here) {
  if (recipe.rounding != FinalRoundingMethod::tuned) return;
  auto weights = static_cast<double>(layer_weight_count(spec) * own_layers(spec, pipeline).count());
  for (std::size_t m = linear_count(spec); m < linear_count(spec) + (spec.tied_head ? 1 : 2); ++m) {
    const WidthRange range = width_range(recipe, std::string(m == linear_count(spec) ? kEmbeddingName : kHeadName));
    if (range.rounded && range.min < kMaxWidth && owns_matrix(spec, pipeline, m))
      weights += static_cast<double>(spec.vocab * spec.hidden);
  }
  const auto wanted = static_cast<std::uint64_t>(
      weights * tuning_bytes_per_weight(recipe.groups.group_cols, recipe.tune.side_rate > 0));
  const std::uint64_t machine = machine_memory_bytes();
  if (wanted * static_cast<std::uint64_t>(stages_here) <= machine / 4 * 3) return;
  fail(ErrorKind::unsupported_hardware,
       "rounding=tuned keeps {} for this model's weights{}, more than three quarters of this machine's {}; take "
       "--set rounding=gptq",
       format_bytes(wanted), stages_here > 1 ? fmt::format(" in each of {} stages here", stages_here) : "",
       format_bytes(machine));
}

FinalRounding final_rounding(const FinalRoundingJob& job, const ProgressSink& progress) {
  const SearchResult& result = job.result;
  JobProcesses alone;
  JobProcesses& processes = job.processes != nullptr ? *job.processes : alone;
  const RoundingStages stages(processes.pipeline());
  if (job.recipe.rounding == FinalRoundingMethod::nearest) {
    FinalRounding nearest{PackedBlobs(result.matrices.size()), result.state.best_validation_loss};
    stages.collect(nearest.blobs, result.matrices, result.state.plan, job.checkpoint.spec);
    return nearest;
  }
  const RoundingEngine engine = make_rounding_engine(job.device, job.checkpoint, job.recipe, processes);
  if (job.recipe.rounding == FinalRoundingMethod::tuned) return tuned(job, engine, stages, progress);
  return HeldOutLoss(job, engine, stages).of(rounded_with_feedback(job, engine, job.seconds_left, progress));
}

}  // namespace scalebits
