// The rounding that the artifact gets at the widths found: nearest, with feedback, or tuned (refine/). Tuning is the
// longest part of the job, so its state is kept beside the search's.
#pragma once

#include "core/progress.h"
#include "pipeline/search.h"
#include "pipeline/search_device.h"
#include "pipeline/search_state.h"
#include "refine/refine_model.h"

#include <filesystem>

namespace scalebits {

struct FinalRounding {
  PackedBlobs blobs;  // empty for matrices that are rounded to nearest
  double validation_loss = 0;
};

struct FinalRoundingJob {
  const Checkpoint& checkpoint;
  const CalibrationSet& calibration;
  const Recipe& recipe;
  const SearchResult& result;
  Provenance provenance;
  std::filesystem::path folder;  // for the state of a tuning
  bool resume = false;
  double seconds_left = 1e30;         // of a time limit: fewer windows and steps are taken to keep it
  SearchDevice device = {};           // for the passes; open_compute_device() was called
  JobProcesses* processes = nullptr;  // null: this process alone
};

/// Throws Error(unsupported_hardware) when the recipe's rounding would not fit this machine's memory: known before the
/// search, and better heard of then. Stages that share a machine tune at the same time.
void require_memory_for_rounding(const ModelSpec& spec, const Recipe& recipe, const PipelineStage* pipeline = nullptr,
                                 int stages_here = 1);

/// Throws Error(interrupted) after Ctrl-C; a tuning then goes on from `folder` with `resume` to the same result. Of a
/// job's processes those of the first replica call it; its stages round and tune their own layers, and the first one is
/// given what all have found.
FinalRounding final_rounding(const FinalRoundingJob& job, const ProgressSink& progress);

}  // namespace scalebits
