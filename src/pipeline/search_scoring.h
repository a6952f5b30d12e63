// The search's passes over its calibration text: each takes the next windows in turn, as many as the time limit allows,
// and adds to the running mean of the scores.
#pragma once

#include "pipeline/search.h"
#include "pipeline/search_journal.h"
#include "pipeline/search_passes.h"

#include <cstdint>
#include <vector>

namespace scalebits {

class SearchScoring {
 public:
  /// Keeps references; `state` holds the scores and which windows come next.
  SearchScoring(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                const RoundedMatrices& matrices, SearchState& state, SearchJournal& journal,
                const SearchCallbacks& callbacks, JobProcesses& processes)
      : calibration_(calibration), recipe_(recipe), matrices_(matrices), state_(state), journal_(journal),
        callbacks_(callbacks), group_(processes.all()),
        passes_(checkpoint, recipe, matrices, processes, callbacks.device) {}

  /// Mean squares of the linear layers' inputs in the full-precision model, on windows that the next pass reads again.
  void measure_inputs();
  /// Of the channels at `bits` throughout, and the loss there. `passes`: how many more must fit into the time.
  double score_channels(const BitPlan& plan, int bits, int passes, std::vector<ChannelScores>& channels);
  /// Scores at `plan`, averaged with those of earlier passes; the loss there.
  double score(const BitPlan& plan);
  /// On the held-out windows; 0 without any.
  double validation_loss(const BitPlan& plan);

  /// With a time limit, fewer windows per gradient rather than fewer steps: `passes` more of them must fit into what is
  /// left, with a tenth to spare for packing.
  void fit_into_time(int passes);
  /// Whether another step of so many seconds ends before the limit.
  bool has_time_for(double seconds);
  /// Of one gradient, as far as it is known.
  double seconds_per_pass() const { return window_seconds_ * static_cast<double>(gradient_windows()); }

 private:
  std::int64_t gradient_windows() const;
  at::Tensor next_windows();

  const CalibrationSet& calibration_;
  const Recipe& recipe_;
  const RoundedMatrices& matrices_;
  SearchState& state_;
  SearchJournal& journal_;
  const SearchCallbacks& callbacks_;
  ProcessGroup& group_;
  SearchPasses passes_;
  Stopwatch start_;
  double window_seconds_ = 0;  // of a gradient pass, per window; 0: not known yet
};

}  // namespace scalebits
