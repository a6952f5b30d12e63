// The ScaleBITS search: order the channels, descend from a high precision until the budget is met, then swap bits at
// equal bytes. Each step is one backward pass at the current plan, one allocation, and one saved state. This is the
// only place that loops over the stages.
#pragma once

#include "allocate/allocation.h"
#include "core/progress.h"
#include "model/checkpoint.h"
#include "pipeline/job_processes.h"
#include "pipeline/recipe.h"
#include "pipeline/search_device.h"
#include "sensitivity/search_model.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace scalebits {

/// Token windows [windows, window_length] int64. The two sets share no text; neither is test text.
struct CalibrationSet {
  at::Tensor gradient_windows;
  at::Tensor validation_windows;
  std::string hash;
};

/// A plan on the way down: smaller budgets start from the nearest one above.
struct FrontierPoint {
  std::uint64_t stored_bytes = 0;  // as the budget counts them
  double code_bits = 0;            // mean width
  double loss = 0;                 // of the gradient batch at this plan
  BitPlan plan;
  SensitivityTable scores;  // at this plan: what brings it down to a budget below
};

/// What happened at one step, for the log and the report.
struct SearchStep {
  std::string phase;  // "order", "descend", "swap"
  double code_bits = 0, loss = 0, seconds = 0;
  std::int64_t lowered = 0, raised = 0;
  bool accepted = true;
};

/// All that a search knows between two steps: saved after each, so that a resumed search goes on to the same result.
struct SearchState {
  enum class Phase { order, descend, swap, done };
  Phase phase = Phase::order;
  std::int64_t next_window = 0;       // of the gradient windows, which the passes read in turn
  std::int64_t gradient_windows = 0;  // per pass, when a time limit allows fewer than the recipe's; 0: the recipe's
  Partition partition;
  std::vector<std::vector<float>> importance;  // per matrix; empty: all inputs alike
  BitPlan plan;
  SensitivityTable scores;  // running mean over the passes
  double best_validation_loss = 0;
  double swap_fraction = 0;
  int swap_step = 0;    // trials so far
  bool scored = false;  // while swapping: `scores` hold a pass at this very plan
  BitPlan held;         // 1 for blocks of swaps rejected since the last accepted one; empty: none
  std::vector<FrontierPoint> frontier;
  std::vector<SearchStep> log;
};

/// How many bytes a plan takes, in the budget's own terms, and how many there are.
struct Budget {
  std::uint64_t bytes = 0;
  std::function<std::uint64_t(const Partition&, const RoundedMatrices&, const BitPlan&)> stored_bytes;
};

/// Throws Error(infeasible_budget) with the feasible range when no plan under this recipe is small enough. Reads every
/// weight once, runs nothing.
void require_feasible(const Checkpoint& checkpoint, const Recipe& recipe, const Budget& budget);

/// What plans are judged on: the held-out windows, or no more of them than a pass reads (but four) where a time limit
/// has cut that. Undefined when there are none.
at::Tensor held_out_windows(const CalibrationSet& calibration, const SearchState& state);

struct SearchCallbacks {
  ProgressSink progress;                               // may be empty
  std::function<void(const SearchState&)> save_state;  // called after each step; may be empty
  double seconds_left = 1e30;                          // of a time limit, counted from the call
  JobProcesses* processes = nullptr;                   // who shares the work; null: this process alone
  SearchDevice device = {};                            // where passes run; open_compute_device() was called
};

struct SearchResult {
  SearchState state;
  RoundedMatrices matrices;
  // Of a plan from a frontier, at the scores saved there: what it costs, and what no plan of its bytes can go below.
  double cost = 0, least_cost = 0;
};

/// Runs from `state` (default: from the start) to the end. With a group of processes, all call it with the same
/// arguments and get the same result; only the first one's callbacks are called. Throws as require_feasible() does, and
/// Error(interrupted) after Ctrl-C, the state being saved.
SearchResult run_search(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                        const Budget& budget, SearchState state, const SearchCallbacks& callbacks);

/// A plan for another budget from a search that has already descended past it: no gradients, seconds. `state` is that
/// search's; the recipe must be its own but for the budget and the allocator. Without validation windows the plan's
/// loss is not measured (0). `matrices`: as an earlier call with the same state returned them; empty: every weight is
/// rounded anew, which takes most of the time.
SearchResult plan_from_frontier(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                                const Budget& budget, SearchState state, const SearchCallbacks& callbacks,
                                RoundedMatrices matrices = {});

}  // namespace scalebits
