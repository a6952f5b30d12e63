// What a search tells and keeps between two steps: its log, progress, and the state that is saved after each; and where
// all processes of a job make sure that they are still of one mind.
#pragma once

#include "pipeline/plan_budget.h"
#include "pipeline/search.h"

#include <chrono>
#include <string>

namespace scalebits {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class SearchJournal {
 public:
  /// Keeps references; `state` is changed by what is noted.
  SearchJournal(SearchState& state, const PlanBudget& plans, const SearchCallbacks& callbacks, ProcessGroup& group)
      : state_(state), plans_(plans), callbacks_(callbacks), group_(group) {}

  /// `fraction` done, or -1 for a line of its own.
  void report(double fraction, const std::string& stage, const std::string& detail) const;
  /// The plan becomes the search's. Throws Error(bad_input) where processes found different ones.
  void move_to(BitPlan plan, const char* phase, double loss, const Stopwatch& watch);
  void reject(const BitPlan& plan, const char* phase, double loss, const Stopwatch& watch);
  void note(const SearchStep& step);
  void finish_phase(SearchState::Phase next);
  /// Throws Error(interrupted) afterwards if Ctrl-C was pressed.
  void save();

 private:
  SearchStep step_to(const BitPlan& plan, const char* phase, double loss, const Stopwatch& watch) const;

  SearchState& state_;
  const PlanBudget& plans_;
  const SearchCallbacks& callbacks_;
  ProcessGroup& group_;
};

}  // namespace scalebits
