// The keys of a GGUF file → ModelSpec. What the keys leave out (biases, norms of q and k, a head of its own, llama3
// rope scaling) is told by which tensors are there.
#pragma once

#include "checkpoint/gguf_file.h"
#include "model/model_spec.h"

#include <string_view>

namespace scalebits {

/// llama3 rope scaling is stored as this tensor of divisors of the rotary frequencies.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";

/// A head of its own that equals the embedding bit for bit counts as tied: the same function, stored once.
/// Throws Error(bad_input) naming the file, the key, wanted and found.
ModelSpec spec_from_gguf(const GgufFile& file);

}  // namespace scalebits
