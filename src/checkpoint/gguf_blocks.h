// The block formats of GGUF: name, sizes, and decoding to f32. A block is a run of consecutive elements of one row.
// The arithmetic is the reference's, operation by operation in f32, so decoded values agree bit for bit.
#pragma once

#include "core/float_types.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace scalebits {

struct GgufFormat {
  std::uint32_t id;  // ggml's number
  std::string_view name;
  std::int64_t block_elements;
  std::int64_t block_bytes;
  std::optional<DType> plain;                                    // set for F32, F16, BF16, which are used as they are
  void (*decode)(const std::byte* block, float* out) = nullptr;  // one block; null for plain ones
};

/// Null when the type is none of those this project reads.
const GgufFormat* find_gguf_format(std::uint32_t id);
/// "F32, F16, Q4_0, ..." for messages.
std::string known_gguf_formats();

/// Decodes whole blocks; `bytes` and `out` must hold the same number of them.
void decode_gguf_blocks(const GgufFormat& format, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace scalebits
