// Rewrites a text before it is split: Unicode normal forms, fixed replacements, SentencePiece's compiled maps.
// Bytes that are not UTF-8 pass through unchanged.
#pragma once

#include "tokenizer/definition.h"

#include <span>
#include <string>
#include <string_view>

namespace scalebits {

/// Throws Error naming `where` when a step cannot be run (an empty pattern, a damaged character map).
void validate_normalizer(std::span<const NormalizeStep> steps, const std::string& where);

/// An empty text stays empty. Throws Error when the steps make a text many times as long.
std::string normalize(std::span<const NormalizeStep> steps, std::string_view text);

}  // namespace scalebits
