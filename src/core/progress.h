// How long work tells how far it is. The library reports; only the command line draws.
#pragma once

#include <atomic>
#include <functional>
#include <string>

namespace scalebits {

/// One report: `fraction` of the whole job done in [0, 1], what is being done, and a figure worth showing.
struct ProgressReport {
  double fraction = 0;
  std::string stage;
  std::string detail;
};

using ProgressSink = std::function<void(const ProgressReport&)>;

/// For a part of a job that goes from `from` to `to` of the whole.
inline ProgressSink part_of(const ProgressSink& whole, double from, double to) {
  if (!whole) return {};
  return [=](const ProgressReport& report) {
    ProgressReport scaled = report;
    if (report.fraction >= 0) scaled.fraction = from + (to - from) * report.fraction;
    whole(scaled);
  };
}

/// Set by the command line's Ctrl-C handler; long loops look at it between steps, save, and stop.
inline std::atomic<bool> interrupt_requested{false};

}  // namespace scalebits
