// Checkpoints of a training run: a Hugging Face folder of the weights in f32 and, beside it, AdamW's state and all else
// that the next step depends on. `latest.json` names both and is replaced last, so that whenever the program dies a
// whole pair is there; older pairs are removed only after that.
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
/// AdamW's means from a state file into parameters of the same model, whose values are the checkpoint's already. Throws
/// Error(bad_input) naming the file when either is not what was saved.
void load_optimizer(const std::filesystem::path& state_file, Parameters& parameters);

}  // namespace scalebits
