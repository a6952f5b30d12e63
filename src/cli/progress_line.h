// Progress on the terminal: one line that is drawn over, with the time spent and an estimate of what is left; a report
// of negative fraction is a line of its own that stays. Without a terminal (a log, a job of several processes) how far
// it is becomes such a line, too, now and then.
#pragma once

#include "core/progress.h"

#include <chrono>
#include <string>

namespace scalebits::cli {

class ProgressLine {
 public:
  using Clock = std::chrono::steady_clock;

  /// `quiet`: prints nothing. `log_interval`: least time between two lines that tell a log how far it is.
  explicit ProgressLine(bool quiet = false, Clock::duration log_interval = std::chrono::seconds(30));
  /// Clears the line.
  ~ProgressLine();
  void operator()(const ProgressReport& report);

 private:
  void clear();
  /// What is left, by the pace of the present stage as soon as it shows: stages are not equally well foreseen, and a
  /// job that goes on from an earlier one begins in the middle. Empty before any pace shows.
  std::string left(const ProgressReport& report, Clock::time_point now);

  bool quiet_, terminal_;
  Clock::duration interval_;
  bool drawn_ = false;
  Clock::time_point start_, last_told_;
  std::string stage_;  // the present one, and where it began
  Clock::time_point stage_start_;
  double stage_fraction_ = 0;
};

}  // namespace scalebits::cli
