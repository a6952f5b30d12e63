// One training run from its configuration to its last checkpoint: steps, schedule, precision schemes, log, checkpoints,
// plot. A run that was interrupted, by Ctrl-C or by kill -9, is continued by the same call and makes the same losses
// bit for bit, given as many threads. Processes that train together share out a step's micro-batches and make the
// losses of one; the first of them alone writes.
#pragma once

#include "core/progress.h"
#include "distributed/process_group.h"
#include "graph/compute_device.h"
#include "train/train_config.h"

#include <filesystem>
#include <vector>

namespace scalebits {

struct TrainJob {
  TrainConfig config;
  std::vector<std::filesystem::path> data;    // text files
  std::filesystem::path output;               // the run's folder
  ProcessGroup* group = nullptr;              // those that train together; null: this one alone
  ComputeDevice device = ComputeDevice::cpu;  // open_compute_device() was called
};

struct TrainReport {
  std::uint64_t first_step = 0, steps = 0;  // of this sitting; in all
  double training_loss = 0;                 // mean of the last 20 steps' losses
  double validation_loss = 0;               // of the end, products in the operand type
  double fp4_share = 0;                     // of the scheme installed last
  double seconds = 0, tokens_per_second = 0;
  double scheme_seconds = 0;  // of them, spent on measuring for schemes
};

/// Throws Error(interrupted) after saving when an interrupt is requested, Error(bad_input) when the loss is not finite
/// or rises `divergence_margin` above its lowest (both naming the step and the last checkpoint, which stays), or when
/// the folder holds another run, naming the option that differs. With several processes the report's losses are the
/// first's alone.
TrainReport train(const TrainJob& job, const ProgressSink& progress = {});

/// SNIP's predictions against measurement at the state the run in the job's folder has reached (its start, when there
/// is none), for the scheme's low format; see divergence_check.h. Predicts from `batches` of those that come next and
/// measures on as many others. Trains nothing. {"format": …, "fit": …, "reliability": …, "layers": […]}.
Json check_divergences(const TrainJob& job, std::int64_t batches, const ProgressSink& progress = {});

}  // namespace scalebits
