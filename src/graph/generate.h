// Writing text with a model: token by token, keys and values of the past kept. Random draws are a pure function of
// (seed, sequence, token number), so a sequence does not depend on what else is in its batch (but for the rounding of
// products of another size).
#pragma once

#include "core/progress.h"
#include "graph/decoder.h"
#include "graph/weight_source.h"
#include "model/model_spec.h"
#include "sampling/sampler.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace scalebits {

struct GenerationOptions {
  std::int64_t max_new_tokens = 1;
  SamplingOptions sampling;
  std::vector<std::int32_t> stop_ids;
  Compute compute = Compute::f32;
  ComputePlace place = {};           // where the weights lie, and keys and values; tokens are chosen on the host
  std::uint64_t first_sequence = 0;  // the number, for the draws, of the first prompt's
};

/// Called with each new token in order; returning false ends the generation.
using TokenCallback = std::function<bool(std::size_t sequence, std::int32_t token)>;

/// Continues each prompt by up to `max_new_tokens`; a stop token ends its sequence and is kept as its last. Prompts
/// must not be empty and must be equally long. On the host weights are asked for once when they all fit half of the
/// memory, else, and elsewhere, once per token. Throws Error(bad_input) for ids outside the vocabulary and for more
/// tokens than the model has positions, Error(usage) for options out of range, Error(interrupted) on Ctrl-C.
std::vector<std::vector<std::int32_t>> generate(const ModelSpec& spec, WeightSource& weights,
                                                const std::vector<std::vector<std::int32_t>>& prompts,
                                                const GenerationOptions& options, const TokenCallback& callback = {});

struct SelfTextOptions {
  std::int64_t windows = 64;
  std::int64_t length = 512;
  std::uint64_t seed = 0;
  std::optional<std::int32_t>
      start_token;  // usually BOS; default: the specification's first end-of-text token, else a random one
  Compute compute = Compute::f32;
  ComputePlace place = {};
  std::int64_t windows_at_once = 0;  // 0: all; others wait for their turn
  /// That it may take: fewer windows are written when those wanted take longer, but never fewer than `least_windows`.
  /// What is found to be slower when these could not be begun anew may take half as long again.
  double seconds = 1e30;
  std::int64_t least_windows = 1;
};

/// What each window takes of the place's memory while it is written, in bytes.
std::uint64_t own_text_bytes(const ModelSpec& spec, Compute compute, std::int64_t length);

/// Text that the model writes itself at temperature 1, for when no calibration text is given: [windows, length] int64
/// ids. The start token is not part of it; an end-of-text token inside a window starts another document, as in
/// training. Throws Error(usage) when `least_windows` take longer than `seconds`.
at::Tensor sample_own_text(const ModelSpec& spec, WeightSource& weights, const SelfTextOptions& options,
                           const ProgressSink& progress = {});

}  // namespace scalebits
