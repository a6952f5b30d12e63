// From the logits of one position to a token.
#pragma once

#include <cstdint>
#include <span>

namespace scalebits {

struct SamplingOptions;

/// `uniform` in [0, 1) decides; unused at temperature 0. Ties go to the smaller id.
std::int32_t choose_token(std::span<const float> logits, const SamplingOptions& options, double uniform);

/// Throws Error(usage) when an option is out of its range.
void validate(const SamplingOptions& options);

}  // namespace scalebits
