// A Hugging Face model folder: config.json, one model.safetensors or shards with an index, tokenizer files.
#pragma once

#include "model/checkpoint.h"

#include <filesystem>
#include <string_view>
#include <vector>

namespace scalebits {

/// Files beside the weights that a model folder may hold and that belong to the model.
inline constexpr std::string_view kHfSideFiles[] = {
    "generation_config.json", "tokenizer.json",      "tokenizer_config.json",
    "tokenizer.model",        "tokenizer.scalebits", "special_tokens_map.json",
    "added_tokens.json",      "vocab.json",          "merges.txt",
    "chat_template.jinja",    "chat_template.json"};

struct HfFolder {
  Checkpoint checkpoint;                     // without hash
  std::vector<std::filesystem::path> files;  // everything that was read or belongs to the model, sorted
};

/// Tensors are views of the mapped files, F32, F16 or BF16, shaped as config.json says. `check_values` refuses NaN and
/// Inf. Throws Error(bad_input) naming the file, the tensor, wanted and found.
HfFolder read_hf_folder(const std::filesystem::path& folder, bool check_values);

}  // namespace scalebits
