// The standing grid: one model, every allocator with every rounding at every rate, each measured on the same text
// against the full-precision model. One descent serves all that can use it; every cell is measured once and kept, so
// the same command goes on where it was stopped.
#pragma once

#include "allocate/allocators.h"
#include "core/json.h"
#include "core/progress.h"
#include "evaluate/perplexity.h"
#include "pipeline/recipe.h"

#include <filesystem>
#include <string>
#include <vector>

namespace scalebits {

struct CompareJob {
  std::filesystem::path model;                     // Hugging Face folder or GGUF file
  std::filesystem::path folder;                    // for all that is kept: the descent, a JSON file for each cell
  std::vector<std::filesystem::path> calibration;  // as for quantize
  std::filesystem::path text;                      // to predict
  WindowOptions windows;                           // context 0: 1024, or the model's positions when there are fewer
  std::vector<Allocator> allocators;
  std::vector<FinalRoundingMethod> roundings;
  std::vector<double> rates;                 // bpw of the linear layers, all-in
  std::vector<std::filesystem::path> peers;  // JSON files of rows measured elsewhere on the same windows
  std::filesystem::path zero_shot;           // folder with the tasks' files; empty: no zero-shot accuracy
  std::int64_t zero_shot_limit = 0;          // questions of each task; 0: all
  Recipe recipe;                             // everything else
};

/// The rows, by rate: {"allocator", "rounding", "rate", "linear_bpw", "code_bits", "file_bytes", "perplexity",
/// "perplexity_error", "window_nll", "kl", "kl_error", "window_kl", "kl_p99", "top1", "zero_shot" {"mean",
/// "mean_standard_error", "limit", "tasks"}, "seconds", "peak_bytes"}; a peer's rows have what their file has. A cell
/// that was measured without the zero-shot tasks, or with other questions, is made again when they are wanted.
/// Allocators that give a whole tensor one width are tried with and without reordering, and the better one is taken:
/// better on the held-out calibration text. Rates may be added to a folder: where its descent does not reach as far,
/// another one, of all rates, takes its place, and cells that were measured stay as they are. Throws Error before
/// anything is made or kept: bad_input when the folder belongs to another model, calibration, text or recipe (by
/// content, wherever the files lie) and for what cannot be read or measured, infeasible_budget for a rate that cannot
/// be met, usage as validate() does. Error(interrupted) after Ctrl-C.
Json compare(const CompareJob& job, const ProgressSink& progress);

/// The files of the folder that a job's figures are kept in.
std::vector<std::filesystem::path> kept_files(const CompareJob& job);

}  // namespace scalebits
