// What a training run asks at its start and every update_interval steps: the precision scheme to go on with.
#pragma once

#include "train/adamw.h"
#include "train/scheme_options.h"
#include "train/shared_passes.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace scalebits {

/// Whether the scheme depends on the state of training, and so is chosen anew every update_interval steps.
bool is_adaptive(SchemeKind kind);

/// SNIP's costs, [linear][option], as a running mean over a run's choices: one step's are noisy, since what a layer's
/// error costs depends on the text. A plain mean at first.
struct RunningCosts {
  std::vector<std::vector<double>> mean;
  std::uint64_t choices = 0;
  /// `memory`: what the mean counts beside the newest costs, 0 (nothing) to below 1.
  void add(const std::vector<std::vector<double>>& costs, double memory);
};

/// What a choice may look at. The graph's gradients are overwritten, its parameters and AdamW's state stay. Of a job of
/// several processes all ask the same, and get the same answer.
struct SchemeQuestion {
  SharedPasses& passes;
  const SchemeOptions& options;
  const AdamWOptions& adamw;
  AdamWStep update;  // of the update that comes next, with the last one's clipping
  at::Tensor ids;    // the batch of that update
  std::uint64_t seed;
  RunningCosts* costs = nullptr;  // of the choices before, this one's are added; null: none

  TrainingGraph& graph() const { return passes.graph(); }
};

/// Measures at once, on the device that trains; the returned function solves, needs nothing of the graph any more and
/// may run beside the training. Throws Error(infeasible_budget) there when the share cannot be met.
std::function<PrecisionScheme()> ask_for_scheme(const SchemeQuestion& question);

}  // namespace scalebits
