// Codes tuned against the whole model: at fixed widths, scales and zeros, each weight's level (its code as a real
// number) follows the gradient that the rounded model sees (straight-through), by Adam with one second moment per
// group, and is rounded anew in every pass. What is brought down is the divergence from the full-precision model on
// calibration text, so no layer has to imitate its own full-precision outputs. Levels start in the middle of their
// codes' cells, so that only gradients which keep their sign over many steps change a code. Our own form of
// quantisation-aware distillation.
#pragma once

#include "graph/decoder.h"
#include "model/checkpoint.h"
#include "refine/refine_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace scalebits {

struct TuneOptions {
  int steps = 100;
  int windows_per_step = 4;
  double rate = 0.03;  // levels per step at the start, when the gradient keeps its sign; falls linearly to 0
  DecoderOptions decoder;
};

/// `ids` [windows, length] int64: calibration text, read in turn. `start`: what round_with_feedback gave, or empty
/// blobs for nearest rounding. `on_step(step, divergence)` is called after each step with the mean KL of its batch in
/// nats per token; what it throws ends the work. Returns blobs for every rounded linear. Memory: 9 bytes for each
/// weight.
PackedBlobs tune_codes(const Checkpoint& checkpoint, const RoundedMatrices& matrices, const BitPlan& plan,
                       const PackedBlobs& start, const at::Tensor& ids, const TuneOptions& options,
                       const std::function<void(int step, double divergence)>& on_step);

}  // namespace scalebits
