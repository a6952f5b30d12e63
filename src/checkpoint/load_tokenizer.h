// The few places where this room meets the tokenizer: a model folder's own, or a GGUF file's vocabulary.
#pragma once

#include "checkpoint/gguf_file.h"

#include <filesystem>
#include <memory>

namespace scalebits {

class Tokenizer;

/// Null when the folder holds none. tokenizer.scalebits, our own form, wins over the others.
std::shared_ptr<const Tokenizer> load_folder_tokenizer(const std::filesystem::path& folder);

/// Null when the file holds none.
std::shared_ptr<const Tokenizer> load_gguf_tokenizer(const GgufFile& file);

}  // namespace scalebits
