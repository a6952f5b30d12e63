// Checkpoints of a training run: a Hugging Face folder of the weights in f32 and, beside it, AdamW's state and all else
// that the next step depends on. `latest.json` names both and is replaced last, so that whenever the program dies a
// whole pair is there; without it the newest whole pair is the last. Which older pairs are removed is KeptCheckpoints'
// to say.
#pragma once

#include "core/json.h"
#include "model/checkpoint.h"
#include "train/parameters.h"
#include "train/precision_scheme.h"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace scalebits {

/// What a run must remember besides parameters and AdamW's means.
struct TrainState {
  std::uint64_t step = 0;   // updates made
  PrecisionScheme scheme;   // installed now; empty before the first choice
  PrecisionScheme pending;  // chosen, to be installed in front of update number `install_step`; may be empty
  std::uint64_t install_step = 0;
  double gradient_scale = 1;                           // of the last update's clipping
  double smoothed_loss = 0, lowest_smoothed_loss = 0;  // of the divergence check; 0 before the first step
  Json config;                                         // of the run, as to_json() writes it
  std::string data_hash;
};

/// `like`: tokenizer, source and names for the folder; its tensors are not read. Replaces latest.json in `run`.
void save_checkpoint(const std::filesystem::path& run, const Checkpoint& like, const Parameters& parameters,
                     const TrainState& state);

struct LoadedRun {
  Checkpoint checkpoint;  // mapped
  TrainState state;
  std::filesystem::path state_file;
};
/// The last checkpoint of a run; none when it has not saved any. Throws Error(bad_input) naming the file that is
/// missing or broken.
std::optional<LoadedRun> load_latest(const std::filesystem::path& run);
/// The same, or the one checkpoint of a run whose folder `path` is.
std::optional<LoadedRun> load_run(const std::filesystem::path& path);

/// Of a run's checkpoint after so many updates; AdamW's state lies beside it, with ".state" behind the name.
std::filesystem::path checkpoint_folder(const std::filesystem::path& run, std::uint64_t step);
/// What checkpoint a file or folder is, or belongs to, or was being written for, by its name; none of others.
std::optional<std::uint64_t> step_of_checkpoint(const std::filesystem::path& path);
/// Whether it is a checkpoint's folder with the state beside it.
bool is_whole_checkpoint(const std::filesystem::path& folder);
/// Of the last checkpoint; none when there is none. Throws Error(bad_input) naming latest.json when it names no
/// checkpoint, and Error(usage) naming a folder called as a checkpoint that is none where no run's files are.
std::optional<std::uint64_t> latest_step(const std::filesystem::path& run);
/// AdamW's means from a state file into parameters of the same model, whose values are the checkpoint's already. Throws
/// Error(bad_input) naming the file when either is not what was saved.
void load_optimizer(const std::filesystem::path& state_file, Parameters& parameters);

}  // namespace scalebits
