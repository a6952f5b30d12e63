#include "train/opened_run.h"

#include "checkpoint/load_tokenizer.h"
#include "checkpoint/read_checkpoint.h"
#include "core/error.h"
#include "core/machine_memory.h"
#include "core/units.h"
#include "tokenizer/tokenizer.h"

#include <optional>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

/// Before anything is allocated: the system may hand out more than there is, and end the process later.
void require_memory(const ModelSpec& spec, ComputeDevice device) {
  if (device == ComputeDevice::cuda) return;
  constexpr double kBytesPerWeight = 16;  // f32: the weight, its gradient and AdamW's two means
  const double weights = static_cast<double>(layer_weight_count(spec)) * static_cast<double>(spec.layers) +
                         static_cast<double>(spec.vocab) * static_cast<double>(spec.hidden) * (spec.tied_head ? 1 : 2);
  const std::uint64_t machine = machine_memory_bytes();
  if (weights * kBytesPerWeight > static_cast<double>(machine))
    fail(ErrorKind::unsupported_hardware,
         "training {:.3g} weights keeps 16 bytes of each, {:.3g} GB, and this machine has {}", weights,
         weights * kBytesPerWeight / 1e9, format_bytes(machine));
}

/// Whatever the order of keys.
bool same_json(const Json& a, const Json& b) { return nlohmann::json(a) == nlohmann::json(b); }

/// Names the first option in which two configurations differ; one that is younger than the run had its default.
void require_same_run(const TrainState& found, const TrainConfig& config, const std::string& data_hash,
                      const fs::path& run) {
  const Json wanted = to_json(config), defaults = to_json(TrainConfig{});
  for (const auto& [key, value] : wanted.items())
    if (const Json was = found.config.value(key, defaults.at(key)); !same_json(was, value))
      fail(ErrorKind::usage, "{}: holds another run: option '{}' was {}, is {}; choose another folder", run.string(),
           key, was.dump(), value.dump());
  if (found.data_hash != data_hash)
    fail(ErrorKind::usage, "{}: holds a run on other text; choose another folder", run.string());
}

}  // namespace

OpenedRun open_run(const TrainJob& job, int rank) {
  const TrainConfig& config = job.config;
  OpenedRun run;
  std::optional<LoadedRun> found = load_latest(job.output);
  std::optional<LoadedRun> base;
  if (found) {
    run.origin = found->checkpoint;
  } else if (!config.start_run.empty()) {
    base = load_run(config.start_run);
    if (!base) fail_input("{}: holds no checkpoint of a training run to start from", config.start_run);
    run.origin = base->checkpoint;
  } else if (!config.start_model.empty()) {
    run.origin = read_checkpoint(config.start_model, {.hash = false});
  }
  if (!config.tokenizer.empty()) {
    run.origin.tokenizer = load_folder_tokenizer(config.tokenizer);
    run.origin.source = config.tokenizer;
  } else if (found) {
    // Side files are copied from where the run began: its own checkpoints go as it goes on.
    run.origin.source = found->state.config.value("source", run.origin.source);
  }
  if (!run.origin.tokenizer)
    fail_input("{}: has no tokenizer, so text cannot be read; name a folder as 'tokenizer'",
               run.origin.source.empty() ? config.tokenizer : run.origin.source);
  if (run.origin.tensors.empty()) {
    run.origin.spec = spec_from_config(config, run.origin.tokenizer->vocab_size(), "model");
    if (run.origin.tokenizer->eos()) run.origin.spec.eos_ids = {*run.origin.tokenizer->eos()};
  }
  require_trainable(run.origin.spec, run.origin.source);
  run.data = std::make_unique<TrainData>(job.data, *run.origin.tokenizer, run.origin.spec.vocab, config.data);
  const TrainPlace place = train_place(job.device, rank, config.fp8_products == "hardware");
  require_memory(run.origin.spec, job.device);
  run.parameters = std::make_unique<Parameters>(run.origin.tensors.empty()
                                                    ? Parameters::random(run.origin.spec, config.seed(), place)
                                                    : Parameters::from_checkpoint(run.origin, place));
  if (found) {
    require_same_run(found->state, config, run.data->hash(), job.output);
    run.state = std::move(found->state);
    load_optimizer(found->state_file, *run.parameters);
  } else if (base) {
    run.state.step = base->state.step;
    run.state.gradient_scale = base->state.gradient_scale;
    load_optimizer(base->state_file, *run.parameters);
    if (run.state.step >= config.steps)
      fail(ErrorKind::usage, "{}: has made {} steps, and this run ends at {}", config.start_run, run.state.step,
           config.steps);
  }
  run.first_step = base ? run.state.step : 0;
  if (found && !config.start_run.empty()) run.first_step = run.state.config.value("first_step", std::uint64_t{0});
  run.state.config = to_json(config);
  run.state.config["first_step"] = run.first_step;
  run.state.config["source"] = run.origin.source;
  run.state.data_hash = run.data->hash();
  run.origin.tensors.clear();
  return run;
}

}  // namespace scalebits
