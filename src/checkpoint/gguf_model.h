// A GGUF file of the Llama family → Checkpoint with Hugging Face names and row order.
// The subtle rule: `llama` files store the rows of q and k so that each rotary pair lies side by side; Hugging Face
// keeps the two halves of a head apart. Rows are put back when they are read. Qwen files were never permuted.
#pragma once

#include "model/checkpoint.h"

#include <cstdint>
#include <filesystem>

namespace scalebits {

/// Quantised tensors are decoded to f32 on all threads; F32, F16 and BF16 ones stay views of the mapped file, save the
/// rows of q and k that had to move. Without hash. `check_values` refuses NaN and Inf.
/// Throws Error(bad_input) naming the file, the key or tensor, wanted and found; Error(unsupported_hardware), before
/// any is decoded, when what does not stay a view takes more than `memory` bytes.
Checkpoint read_gguf_model(const std::filesystem::path& path, bool check_values, std::uint64_t memory);

}  // namespace scalebits
