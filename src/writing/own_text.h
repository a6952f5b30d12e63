// Text that a model writes from nothing, for when no text is at hand to calibrate or measure on. As graph/generate.h's
// sample_own_text: the same start tokens and the same random numbers, so the texts differ only where rounding decides.
#pragma once

#include "core/progress.h"
#include "runtime/session.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace scalebits {

struct OwnTextOptions {
  std::int64_t windows = 64;  // pieces of text
  std::int64_t length = 512;  // tokens of each
  std::uint64_t seed = 0;
  std::optional<std::int32_t> start_token;  // usually BOS; default: the specification's first end-of-text token, else a
                                            // random one. Not part of the text
  KvType kv = KvType::f16;                  // how keys and values are kept
};

/// [windows][length] tokens, drawn at temperature 1; an end-of-text token begins another document, as in training.
/// Throws Error(bad_input) for more tokens than the model has positions, Error(interrupted) on Ctrl-C.
std::vector<std::vector<std::int32_t>> write_own_text(RuntimeModel& model, const OwnTextOptions& options,
                                                      const ProgressSink& progress = {});

}  // namespace scalebits
