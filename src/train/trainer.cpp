#include "train/trainer.h"

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/folder_lock.h"
#include "report/plot.h"
#include "train/divergence_check.h"
#include "train/kept_checkpoints.h"
#include "train/opened_run.h"
#include "train/scheme_schedule.h"
#include "train/train_log.h"
#include "train/training_graph.h"

#include <chrono>
#include <cmath>
#include <optional>

namespace scalebits {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char *kLog = "log.jsonl", *kPlot = "loss.svg";
/// Of the loss that divergence is judged by.
constexpr double kSmoothing = 0.95;
constexpr std::size_t kReportedSteps = 20;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Run {
 public:
  Run(const TrainJob& job, const ProgressSink& progress) : job_(job), config_(job.config), progress_(progress) {
    if (group_.size() > config_.micro_batches)
      fail(ErrorKind::usage,
           "{} processes share the micro-batches of a step, and the configuration has {}: give --set micro_batches={} "
           "or a multiple of it",
           group_.size(), config_.micro_batches, group_.size());
    group_.require_same("configuration", to_json(config_).dump());
    if (fs::exists(job_.output) && !fs::is_directory(job_.output))
      fail(ErrorKind::usage, "{}: a run is kept in a folder, and this is a file", job_.output.string());
    const bool taken = !group_.is_first() || lock_.take(job_.output);
    if (group_.any(!taken)) fail(ErrorKind::usage, "{}: another run works in this folder", job_.output.string());
    if (!lock_.unlocked().empty() && progress_)
      progress_({-1, "folder",
                 fmt::format("{}: cannot be locked against other runs: {}", job_.output.string(), lock_.unlocked())});
    checkpoints_.emplace(job_.output, group_.is_first());
    if (!checkpoints_->last() && fs::exists(job_.output / kPlot) && !fs::exists(job_.output / kLog))
      fail(ErrorKind::usage, "{}: holds no run's files but a {}, which would be replaced; choose another folder",
           job_.output.string(), kPlot);
    guarded("", [&] { run_ = open_run(job_, group_.rank()); });
    group_.require_same("training text", run_.data->hash());
    group_.require_same("state of the run (is the folder shared?)", fmt::format("{}", state_.step));
    graph_.emplace(
        *run_.parameters,
        TrainingGraphOptions{.operand = config_.compute == "f32" ? at::kFloat : at::kBFloat16, .seed = config_.seed()});
    passes_.emplace(*graph_, group_, config_.micro_batches);
    schemes_.emplace(config_.scheme, graph_->spec(), run_.first_step, state_, group_);
  }

  Json check(std::int64_t count) {
    if (group_.size() > 1) fail(ErrorKind::usage, "divergences are checked by one process");
    std::vector<at::Tensor> predicting, measuring;
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) {
      measuring.push_back(run_.data->batch(state_.step + 2 * i));
      predicting.push_back(run_.data->batch(state_.step + 2 * i + 1));
    }
    return to_json(graph_->spec(),
                   check_divergences(question(predicting.at(0)), number_format_from_name(config_.scheme.low),
                                     predicting, measuring, progress_));
  }

  TrainReport go() {
    const Clock::time_point start = Clock::now();
    TrainReport report{.first_step = state_.step, .steps = config_.steps};
    std::optional<TrainLog> log;
    if (group_.is_first()) log.emplace(job_.output / kLog, state_.step);
    while (state_.step < config_.steps) {
      if (group_.any(interrupt_requested)) {
        if (checkpoints_->last() != state_.step) save();
        fail(ErrorKind::interrupted, "stopped after {} of {} steps; the same command goes on", state_.step,
             config_.steps);
      }
      const Clock::time_point step_start = Clock::now();
      const at::Tensor ids = run_.data->batch(state_.step);
      Json line;
      guarded(at_step(), [&] {
        const SchemeSchedule::Settled settled = schemes_->settle([&] { return question(ids); });
        line = make_step(ids);
        const double seconds = seconds_since(step_start);
        line["seconds"] = seconds;
        line["tokens_per_second"] = static_cast<double>(ids.numel()) / seconds;
        if (settled.seconds > 0) line["scheme_seconds"] = settled.seconds;
        if (settled.installed) line["scheme"] = to_json(graph_->spec(), state_.scheme);
        report.scheme_seconds += settled.seconds;
        if (state_.step % config_.validation_interval == 0 || state_.step == config_.steps) validate(line, report);
        if (log) log->add(line);
      });
      tell(line);
      if (state_.step % config_.checkpoint_interval == 0 || state_.step == config_.steps) save();
      // No step follows whose loss would show the last weights to be good; they have just been validated.
      if (state_.step == config_.steps && loss_is_good()) checkpoints_->seen_good(state_.step);
    }
    report.seconds = seconds_since(start);
    report.fp4_share = fp4_share(graph_->spec(), state_.scheme);
    report.tokens_per_second = static_cast<double>(state_.step - report.first_step) *
                               static_cast<double>(config_.data.batch_windows * config_.data.window_length) /
                               report.seconds;
    if (log) finish(*log, report);
    return report;
  }

 private:
  AdamWStep next_update() const {
    return {.rate = learning_rate(config_.schedule(), state_.step),
            .step = state_.step,
            .gradient_scale = state_.gradient_scale};
  }

  SchemeQuestion question(const at::Tensor& ids) {
    return {.passes = *passes_,
            .options = config_.scheme,
            .adamw = config_.adamw,
            .update = next_update(),
            .ids = ids,
            .seed = config_.seed()};
  }

  std::string at_step() const { return fmt::format("step {}: ", state_.step); }

  /// An Error of the work tells where it came and what to go on from.
  template <typename Work>
  void guarded(const std::string& where, Work&& work) const {
    try {
      work();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::usage || error.kind() == ErrorKind::infeasible_budget) throw;
      if (where.empty() && !checkpoints_->last()) throw;
      fail(error.kind(), "{}{}; {}", where, error.what(), checkpoints_->last_good());
    }
  }

  bool loss_is_good() const {
    return state_.smoothed_loss <= state_.lowest_smoothed_loss + config_.divergence_margin / 2;
  }

  Json make_step(const at::Tensor& ids) {
    const double loss = passes_->loss_and_gradients(ids, state_.scheme, state_.step);
    const TrainArithmetic& run = *run_.parameters->place().train;
    const double norm = run.gradient_norm(*run_.parameters);
    if (!std::isfinite(norm)) fail_input("the gradients' norm is not finite");
    const bool begun = state_.smoothed_loss > 0;
    state_.smoothed_loss = begun ? kSmoothing * state_.smoothed_loss + (1 - kSmoothing) * loss : loss;
    state_.lowest_smoothed_loss =
        begun ? std::min(state_.lowest_smoothed_loss, state_.smoothed_loss) : state_.smoothed_loss;
    if (state_.smoothed_loss > state_.lowest_smoothed_loss + config_.divergence_margin)
      fail_input("training diverges: the smoothed loss is {:.3f}, its lowest was {:.3f}", state_.smoothed_loss,
                 state_.lowest_smoothed_loss);
    if (loss_is_good() && loss <= state_.lowest_smoothed_loss + config_.divergence_margin)
      checkpoints_->seen_good(state_.step);
    AdamWStep update = next_update();
    update.gradient_scale = state_.gradient_scale = clip_scale(norm, config_.clip_norm);
    run.adamw_update(*run_.parameters, config_.adamw, update);
    Json line = {{"step", state_.step},
                 {"loss", loss},
                 {"gradient_norm", norm},
                 {"learning_rate", update.rate},
                 {"fp4_share", fp4_share(graph_->spec(), state_.scheme)}};
    ++state_.step;
    return line;
  }

  /// Mean loss of the held-out windows, as "validation_loss" with products in the operand type: what the weights are
  /// worth without emulation; and as "scheme_validation_loss" with those of the scheme: what training sees.
  void validate(Json& line, TrainReport& report) {
    const auto loss = [&](const PrecisionScheme& scheme) {
      return passes_->loss(run_.data->validation(), scheme, config_.data.batch_windows);
    };
    const PrecisionScheme exact = uniform_scheme(graph_->spec(), NumberFormat::bf16);
    line["validation_loss"] = report.validation_loss = loss(exact);
    line["scheme_validation_loss"] = state_.scheme == exact ? report.validation_loss : loss(state_.scheme);
  }

  void save() {
    guarded(at_step(), [&] {
      schemes_->resolve();
      for (const Parameter& parameter : run_.parameters->all())
        if (!std::isfinite(run_.parameters->place().train->squared_norm(parameter.value)))
          fail_input("the weights of '{}' are not finite, and are not saved", parameter.name);
      if (group_.is_first()) save_checkpoint(job_.output, run_.origin, *run_.parameters, state_);
    });
    checkpoints_->saved(state_.step);
  }

  void tell(const Json& line) const {
    if (!progress_) return;
    progress_({.fraction = static_cast<double>(state_.step) / static_cast<double>(config_.steps),
               .stage = "training",
               .detail = fmt::format("step {}/{}, loss {:.4f}, {:.0f} tokens/s, {:.0f}% FP4", state_.step,
                                     config_.steps, state_.smoothed_loss, line.at("tokens_per_second").get<double>(),
                                     100 * line.at("fp4_share").get<double>())});
  }

  void finish(const TrainLog& log, TrainReport& report) {
    Series training{.name = "training"}, validation{.name = "validation"};
    double sum = 0;
    for (const Json& line : log.lines()) {
      const auto step = line.at("step").get<double>();
      training.points.emplace_back(step, line.at("loss").get<double>());
      if (line.contains("validation_loss"))
        validation.points.emplace_back(step, line.at("validation_loss").get<double>());
    }
    const std::size_t count = std::min(kReportedSteps, training.points.size());
    for (std::size_t i = training.points.size() - count; i < training.points.size(); ++i)
      sum += training.points[i].second;
    if (count > 0) report.training_loss = sum / static_cast<double>(count);
    if (!validation.points.empty()) report.validation_loss = validation.points.back().second;
    write_file_atomically(
        job_.output / kPlot,
        svg_of({.title = "Loss", .x_label = "step", .y_label = "nats per token", .series = {training, validation}}));
  }

  const TrainJob& job_;
  const TrainConfig& config_;
  const ProgressSink& progress_;
  ProcessGroup alone_;
  ProcessGroup& group_ = job_.group != nullptr ? *job_.group : alone_;
  FolderLock lock_;  // of the first process
  OpenedRun run_;
  std::optional<KeptCheckpoints> checkpoints_;
  TrainState& state_ = run_.state;
  std::optional<TrainingGraph> graph_;
  std::optional<SharedPasses> passes_;
  std::optional<SchemeSchedule> schemes_;
};

}  // namespace

TrainReport train(const TrainJob& job, const ProgressSink& progress) { return Run(job, progress).go(); }

Json check_divergences(const TrainJob& job, std::int64_t batches, const ProgressSink& progress) {
  if (batches < 1) fail(ErrorKind::usage, "divergences are measured on at least 1 batch, found {}", batches);
  return Run(job, progress).check(batches);
}

}  // namespace scalebits
