// What a training run starts from: its own last checkpoint if it was begun before, else where the configuration says.
#pragma once

#include "model/checkpoint.h"
#include "train/parameters.h"
#include "train/train_data.h"
#include "train/train_state.h"
#include "train/trainer.h"

#include <cstdint>
#include <memory>

namespace scalebits {

struct OpenedRun {
  Checkpoint origin;  // specification, tokenizer and side files; no tensors
  std::unique_ptr<TrainData> data;
  std::unique_ptr<Parameters> parameters;
  TrainState state;
  std::uint64_t first_step = 0;  // where the run that this one starts from had stopped
};

/// Throws Error(usage) when the folder holds another run, naming the option that differs, and Error(bad_input) naming
/// the file that is missing or not what it must be. `rank`: of this process, which says on which device it computes.
OpenedRun open_run(const TrainJob& job, int rank);

}  // namespace scalebits
