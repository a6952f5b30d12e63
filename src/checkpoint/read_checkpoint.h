// Reads a model from disk, whatever it is stored as: a Hugging Face folder or a GGUF file. What comes back has been
// checked against its configuration whole; tensors that need no decoding are views into the mapped files.
#pragma once

#include "model/checkpoint.h"

#include <filesystem>

namespace scalebits {

struct ReadOptions {
  bool check_values = true;  // read every value once to refuse NaN and Inf
  bool hash = true;          // fill Checkpoint::hash; otherwise it stays empty
};

/// Whether `path` is a folder or a GGUF file, to be read here, rather than an artifact. Throws Error(bad_input) when it
/// is no file.
bool is_checkpoint(const std::filesystem::path& path);

/// Fills every field of Checkpoint. Throws Error(bad_input) naming the file, the tensor, wanted and found.
Checkpoint read_checkpoint(const std::filesystem::path& folder_or_gguf, const ReadOptions& options = {});

}  // namespace scalebits
