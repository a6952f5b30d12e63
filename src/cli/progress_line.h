// Progress on the terminal: one line that is drawn over, with the time spent and an estimate of what is left; a report
// of negative fraction is a line of its own that stays. Without a terminal only the lines that stay are printed.
#pragma once

#include "core/progress.h"

#include <chrono>
#include <cstdint>

namespace scalebits::cli {

class ProgressLine {
 public:
  /// `quiet`: prints nothing.
  explicit ProgressLine(bool quiet = false);
  /// Clears the line.
  ~ProgressLine();
  void operator()(const ProgressReport& report);

 private:
  void clear();
  bool quiet_, terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_drawn_;
};

}  // namespace scalebits::cli
