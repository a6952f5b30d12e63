// Token windows for the search, from text files or from the model itself, split so that what judges a plan is never
// what scored it.
#pragma once

#include "model/checkpoint.h"
#include "pipeline/recipe.h"
#include "pipeline/search.h"

#include <filesystem>
#include <vector>

namespace scalebits {

/// Concatenates the files' tokens, cuts them into windows, shuffles the windows by the recipe's seed; the first
/// validation_windows of them are held out. Throws Error(bad_input) when there is no tokenizer, a file cannot be read,
/// or the text is too short (naming how many windows were wanted and found).
CalibrationSet calibration_from_text(const Checkpoint& checkpoint, const std::vector<std::filesystem::path>& files,
                                     const Recipe& recipe);

/// Windows that the full-precision model writes by sampling, seeded: the job's first process does, on its `device`,
/// the others get them. How many they are is the clock's to say where `seconds` do not suffice for all, so they are
/// kept in the file `kept`, and taken from there when they are of this model and recipe and `resume` is set. Throws
/// Error(unsupported_hardware) when the device's memory does not suffice, Error(bad_input) when `kept` is damaged.
CalibrationSet calibration_from_model(const Checkpoint& checkpoint, const Recipe& recipe, const ProgressSink& progress,
                                      JobProcesses& processes, double seconds, const SearchDevice& device,
                                      const std::filesystem::path& kept, bool resume);

}  // namespace scalebits
