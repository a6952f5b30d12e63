// What a training run asks at its start and every update_interval steps: the precision scheme to go on with.
#pragma once

#include "train/adamw.h"
#include "train/scheme_options.h"
#include "train/shared_passes.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace scalebits {

/// Whether the scheme depends on the state of training, and so is chosen anew every update_interval steps.
bool is_adaptive(SchemeKind kind);

/// What a choice may look at. The graph's gradients are overwritten, its parameters and AdamW's state stay. Of a job of
/// several processes all ask the same, and get the same answer.
struct SchemeQuestion {
  SharedPasses& passes;
  const SchemeOptions& options;
  const AdamWOptions& adamw;
  AdamWStep update;  // of the update that comes next, with the last one's clipping
  at::Tensor ids;    // the batch of that update
  std::uint64_t seed;

  TrainingGraph& graph() const { return passes.graph(); }
};

/// Measures at once, on the device that trains; the returned function solves, needs nothing of the graph any more and
/// may run beside the training. Throws Error(infeasible_budget), before anything is measured, when the share cannot be
/// met.
std::function<PrecisionScheme()> ask_for_scheme(const SchemeQuestion& question);

}  // namespace scalebits
