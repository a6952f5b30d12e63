#include "train/trainer.h"

#include "checkpoint/load_tokenizer.h"
#include "checkpoint/read_checkpoint.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "core/units.h"
#include "report/plot.h"
#include "tokenizer/tokenizer.h"
#include "train/divergence_check.h"
#include "train/scheme_choice.h"
#include "train/train_data.h"
#include "train/train_log.h"
#include "train/train_state.h"
#include "train/training_graph.h"

#include <chrono>
#include <cmath>
#include <future>
#include <memory>
#include <optional>

namespace scalebits {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// A scheme that was asked for in front of update s runs from update s + this on: meanwhile the programme is solved.
constexpr std::uint64_t kInstallDelay = 2;
/// Of the loss that divergence is judged by.
constexpr double kSmoothing = 0.95;
constexpr std::size_t kReportedSteps = 20;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Names the first option in which two configurations differ; one that is younger than the run had its default.
void require_same_run(const TrainState& found, const TrainConfig& config, const std::string& data_hash,
                      const fs::path& run) {
  const Json wanted = to_json(config), defaults = to_json(TrainConfig{});
  for (const auto& [key, value] : wanted.items())
    if (const Json was = found.config.value(key, defaults.at(key)); was != value)
      fail(ErrorKind::usage, "{}: holds another run: option '{}' was {}, is {}; choose another folder", run.string(),
           key, was.dump(), value.dump());
  if (found.data_hash != data_hash)
    fail(ErrorKind::usage, "{}: holds a run on other text; choose another folder", run.string());
}

class Run {
 public:
  Run(const TrainJob& job, const ProgressSink& progress) : job_(job), config_(job.config), progress_(progress) {
    if (group_.size() > config_.micro_batches)
      fail(ErrorKind::usage,
           "{} processes share the micro-batches of a step, and the configuration has {}: give --set micro_batches={} "
           "or a multiple of it",
           group_.size(), config_.micro_batches, group_.size());
    group_.require_same("configuration", to_json(config_).dump());
    fs::create_directories(job_.output);
    open();
    group_.require_same("training text", data_->hash());
    group_.require_same("state of the run (is the folder shared?)", fmt::format("{}", state_.step));
    graph_.emplace(*parameters_, TrainingGraphOptions{.operand = config_.compute == "f32" ? at::kFloat : at::kBFloat16,
                                                      .seed = config_.seed()});
    passes_.emplace(*graph_, group_, config_.micro_batches);
  }

  Json check(std::int64_t count) {
    if (group_.size() > 1) fail(ErrorKind::usage, "divergences are checked by one process");
    std::vector<at::Tensor> predicting, measuring;
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i) {
      measuring.push_back(data_->batch(state_.step + 2 * i));
      predicting.push_back(data_->batch(state_.step + 2 * i + 1));
    }
    return to_json(graph_->spec(),
                   check_divergences(question(predicting.at(0)), number_format_from_name(config_.scheme.low),
                                     predicting, measuring, progress_));
  }

  TrainReport go() {
    const Clock::time_point start = Clock::now();
    TrainReport report{.first_step = state_.step, .steps = config_.steps};
    std::optional<TrainLog> log;
    if (group_.is_first()) log.emplace(job_.output / "log.jsonl", state_.step);
    while (state_.step < config_.steps) {
      if (group_.any(interrupt_requested)) {
        save();
        fail(ErrorKind::interrupted, "stopped after {} of {} steps; the same command goes on", state_.step,
             config_.steps);
      }
      const Clock::time_point step_start = Clock::now();
      const at::Tensor ids = data_->batch(state_.step);
      const double scheme_seconds = settle_scheme(ids);
      Json line = make_step(ids);
      const double seconds = seconds_since(step_start);
      line["seconds"] = seconds;
      line["tokens_per_second"] = static_cast<double>(ids.numel()) / seconds;
      if (scheme_seconds > 0) line["scheme_seconds"] = scheme_seconds;
      report.scheme_seconds += scheme_seconds;
      if (state_.step % config_.validation_interval == 0 || state_.step == config_.steps) validate(line, report);
      if (log) log->add(line);
      tell(line, seconds);
      if (state_.step % config_.checkpoint_interval == 0 || state_.step == config_.steps) save();
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
  /// Parameters, data and state: of this run if it was begun before, else of where the configuration starts.
  void open() {
    std::optional<LoadedRun> found = load_latest(job_.output);
    std::optional<LoadedRun> base;
    if (found) {
      origin_ = found->checkpoint;
    } else if (!config_.start_run.empty()) {
      base = load_latest(config_.start_run);
      if (!base) fail_input("{}: holds no checkpoint of a training run to start from", config_.start_run);
      origin_ = base->checkpoint;
    } else if (!config_.start_model.empty()) {
      origin_ = read_checkpoint(config_.start_model, {.hash = false});
    }
    if (!config_.tokenizer.empty()) {
      origin_.tokenizer = load_folder_tokenizer(config_.tokenizer);
      origin_.source = config_.tokenizer;
    } else if (found) {
      // Side files are copied from where the run began: its own checkpoints go as it goes on.
      origin_.source = found->state.config.value("source", origin_.source);
    }
    if (!origin_.tokenizer)
      fail_input("{}: has no tokenizer, so text cannot be read; name a folder as 'tokenizer'",
                 origin_.source.empty() ? config_.tokenizer : origin_.source);
    if (origin_.tensors.empty()) {
      origin_.spec = spec_from_config(config_, origin_.tokenizer->vocab_size(), "model");
      if (origin_.tokenizer->eos()) origin_.spec.eos_ids = {*origin_.tokenizer->eos()};
    }
    require_trainable(origin_.spec, origin_.source);
    data_.emplace(job_.data, *origin_.tokenizer, origin_.spec.vocab, config_.data);
    const TrainPlace place = train_place(job_.device, group_.rank(), config_.fp8_products == "hardware");
    parameters_ =
        std::make_unique<Parameters>(origin_.tensors.empty() ? Parameters::random(origin_.spec, config_.seed(), place)
                                                             : Parameters::from_checkpoint(origin_, place));
    if (found) {
      require_same_run(found->state, config_, data_->hash(), job_.output);
      state_ = std::move(found->state);
      load_optimizer(found->state_file, *parameters_);
    } else if (base) {
      state_.step = base->state.step;
      load_optimizer(base->state_file, *parameters_);
      if (state_.step >= config_.steps)
        fail(ErrorKind::usage, "{}: has made {} steps, and this run ends at {}", config_.start_run, state_.step,
             config_.steps);
    }
    first_step_ = base ? state_.step : 0;
    if (found && !config_.start_run.empty()) first_step_ = state_.config.value("first_step", std::uint64_t{0});
    state_.config = to_json(config_);
    state_.config["first_step"] = first_step_;
    state_.config["source"] = origin_.source;
    state_.data_hash = data_->hash();
    origin_.tensors.clear();
  }

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

  /// Installs what is due and asks anew when it is time. Returns the seconds that the training waited.
  double settle_scheme(const at::Tensor& ids) {
    const Clock::time_point start = Clock::now();
    const bool first = state_.scheme.empty();
    const bool due =
        is_adaptive(config_.scheme.kind) && (state_.step - first_step_) % config_.scheme.update_interval == 0;
    if (!first && !due && !waiting_.valid() && state_.pending.empty()) return 0;
    if (first || due) {
      const auto solve = ask_for_scheme(question(ids));
      if (first) {
        state_.scheme = solve();  // nothing to train with meanwhile
      } else {
        waiting_ = std::async(std::launch::async, solve);
        state_.install_step = state_.step + kInstallDelay;
      }
    }
    if (state_.step >= state_.install_step) {
      resolve();
      if (!state_.pending.empty()) {
        state_.scheme = std::move(state_.pending);
        state_.pending.clear();
      }
    }
    return first || due ? seconds_since(start) : 0;
  }

  /// Takes the programme's answer, waiting for it if need be.
  void resolve() {
    if (!waiting_.valid()) return;
    state_.pending = waiting_.get();
    group_.require_same("precision scheme", to_json(graph_->spec(), state_.pending).dump());
  }

  Json make_step(const at::Tensor& ids) {
    double loss = 0;
    try {
      loss = passes_->loss_and_gradients(ids, state_.scheme, state_.step);
    } catch (const Error& error) {
      fail(error.kind(), "step {}: {}; {}", state_.step, error.what(), last_checkpoint());
    }
    const TrainArithmetic& run = *parameters_->place().train;
    const double norm = run.gradient_norm(*parameters_);
    if (!std::isfinite(norm))
      fail_input("step {}: the gradients' norm is not finite; {}", state_.step, last_checkpoint());
    const bool begun = state_.smoothed_loss > 0;
    state_.smoothed_loss = begun ? kSmoothing * state_.smoothed_loss + (1 - kSmoothing) * loss : loss;
    state_.lowest_smoothed_loss =
        begun ? std::min(state_.lowest_smoothed_loss, state_.smoothed_loss) : state_.smoothed_loss;
    if (state_.smoothed_loss > state_.lowest_smoothed_loss + config_.divergence_margin)
      fail_input("step {}: training diverges: the smoothed loss is {:.3f}, its lowest was {:.3f}; {}", state_.step,
                 state_.smoothed_loss, state_.lowest_smoothed_loss, last_checkpoint());
    AdamWStep update = next_update();
    update.gradient_scale = state_.gradient_scale = clip_scale(norm, config_.clip_norm);
    run.adamw_update(*parameters_, config_.adamw, update);
    Json line = {{"step", state_.step},
                 {"loss", loss},
                 {"gradient_norm", norm},
                 {"learning_rate", update.rate},
                 {"fp4_share", fp4_share(graph_->spec(), state_.scheme)}};
    ++state_.step;
    return line;
  }

  std::string last_checkpoint() const {
    const auto latest = load_latest(job_.output);
    return latest ? fmt::format("the last good checkpoint is that of step {} in {}", latest->state.step,
                                job_.output.string())
                  : "no checkpoint had been saved";
  }

  /// Mean loss of the held-out windows, as "validation_loss" with products in the operand type: what the weights are
  /// worth without emulation; and as "scheme_validation_loss" with those of the scheme: what training sees.
  void validate(Json& line, TrainReport& report) {
    const auto loss = [&](const PrecisionScheme& scheme) {
      return passes_->loss(data_->validation(), scheme, config_.data.batch_windows);
    };
    const PrecisionScheme exact = uniform_scheme(graph_->spec(), NumberFormat::bf16);
    line["validation_loss"] = report.validation_loss = loss(exact);
    line["scheme_validation_loss"] = state_.scheme == exact ? report.validation_loss : loss(state_.scheme);
  }

  void save() {
    resolve();
    if (!group_.is_first()) return;
    try {
      save_checkpoint(job_.output, origin_, *parameters_, state_);
    } catch (const Error& error) {
      fail(error.kind(), "step {}: {}; {}", state_.step, error.what(), last_checkpoint());
    }
  }

  void tell(const Json& line, double seconds) const {
    if (!progress_) return;
    progress_(
        {.fraction = static_cast<double>(state_.step) / static_cast<double>(config_.steps),
         .stage = fmt::format("step {}/{}", state_.step, config_.steps),
         .detail = fmt::format("loss {:.4f}, {:.0f} tokens/s, {:.0f}% FP4, {} left", state_.smoothed_loss,
                               line.at("tokens_per_second").get<double>(), 100 * line.at("fp4_share").get<double>(),
                               format_seconds(seconds * static_cast<double>(config_.steps - state_.step)))});
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
        job_.output / "loss.svg",
        svg_of({.title = "Loss", .x_label = "step", .y_label = "nats per token", .series = {training, validation}}));
  }

  const TrainJob& job_;
  const TrainConfig& config_;
  const ProgressSink& progress_;
  ProcessGroup alone_;
  ProcessGroup& group_ = job_.group != nullptr ? *job_.group : alone_;
  Checkpoint origin_;  // specification, tokenizer and side files; no tensors
  std::optional<TrainData> data_;
  std::unique_ptr<Parameters> parameters_;
  std::optional<TrainingGraph> graph_;
  std::optional<SharedPasses> passes_;
  TrainState state_;
  std::uint64_t first_step_ = 0;  // of this run: where the run that it starts from had stopped
  std::future<PrecisionScheme> waiting_;
};

}  // namespace

TrainReport train(const TrainJob& job, const ProgressSink& progress) { return Run(job, progress).go(); }

Json check_divergences(const TrainJob& job, std::int64_t batches, const ProgressSink& progress) {
  if (batches < 1) fail(ErrorKind::usage, "divergences are measured on at least 1 batch, found {}", batches);
  return Run(job, progress).check(batches);
}

}  // namespace scalebits
