// The whole job: a checkpoint in, a budget met, an artifact out.
#pragma once

#include "artifact/artifact_description.h"
#include "core/progress.h"
#include "pipeline/recipe.h"
#include "pipeline/search.h"

#include <filesystem>
#include <optional>
#include <vector>

namespace scalebits {

struct QuantizeJob {
  std::filesystem::path model;
  std::filesystem::path output;
  std::vector<std::filesystem::path> calibration;  // empty: the model writes its own
  Recipe recipe;
  bool resume = false;                       // go on from the saved search, if there is one
  std::filesystem::path save_frontier;       // where to keep the finished search for other budgets; empty: nowhere
  std::filesystem::path frontier;            // such a file: no search, a plan from the descent it holds
  std::optional<double> time_limit_seconds;  // for the whole job; swaps are cut short to keep it
  ProcessGroup* group = nullptr;             // who shares the work; null: this process alone
  int stages = 1;                            // that the layers are shared out to; divides the group's size
  SearchDevice device = {};                  // where all passes run; open_compute_device() was called
};

struct QuantizeReport {
  ArtifactSizes sizes;
  std::vector<SearchStep> steps;
  double validation_loss = 0;
  double seconds = 0;
};

/// The folder beside the output in which the search keeps its state: "<output>.search".
std::filesystem::path search_folder(const std::filesystem::path& output);

/// Writes job.output. Throws Error of every kind; after Error(interrupted) the search folder holds the best plan so far
/// and the same job with `resume` goes on. Of a group's processes, which must all see the same files, the first one
/// packs what was found, the first replica's stages having rounded it; the others return an empty report once their
/// work is done.
QuantizeReport quantize(const QuantizeJob& job, const ProgressSink& progress);

}  // namespace scalebits
