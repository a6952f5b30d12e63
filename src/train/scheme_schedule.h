// When a run's precision scheme changes: asked for before its first step and, where it depends on the state of
// training, every update_interval steps; the programme is solved beside the training and its answer installed two steps
// later, so that when it comes does not depend on how long it took. Intervals are at least those two steps.
#pragma once

#include "train/scheme_choice.h"
#include "train/train_state.h"

#include <cstdint>
#include <functional>
#include <future>

namespace scalebits {

class SchemeSchedule {
 public:
  /// Keeps references. The scheme of `state` is changed, and what of it is under way is kept there by resolve().
  SchemeSchedule(const SchemeOptions& options, const ModelSpec& spec, std::uint64_t first_step, TrainState& state,
                 ProcessGroup& group)
      : options_(options), spec_(spec), first_step_(first_step), state_(state), group_(group) {}

  struct Settled {
    double seconds = 0;  // that the training waited
    bool installed = false;
  };
  /// In front of an update: installs what is due and asks `question` when it is time. Throws Error(infeasible_budget)
  /// when the share cannot be met.
  Settled settle(const std::function<SchemeQuestion()>& question);
  /// Takes the programme's answer, waiting for it if need be: nothing is under way afterwards.
  void resolve();

 private:
  const SchemeOptions& options_;
  const ModelSpec& spec_;
  std::uint64_t first_step_;  // intervals count from here
  TrainState& state_;
  ProcessGroup& group_;
  std::future<PrecisionScheme> waiting_;
};

}  // namespace scalebits
