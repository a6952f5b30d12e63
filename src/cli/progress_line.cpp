#include "cli/progress_line.h"

#include "core/units.h"

#include <fmt/format.h>

#include <cstdio>
#include <unistd.h>

namespace scalebits::cli {

ProgressLine::ProgressLine(bool quiet, Clock::duration log_interval)
    : quiet_(quiet), terminal_(::isatty(STDERR_FILENO) != 0),
      interval_(terminal_ ? Clock::duration(std::chrono::milliseconds(100)) : log_interval), start_(Clock::now()),
      last_told_(terminal_ ? Clock::time_point() : start_) {}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::clear() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
  drawn_ = false;
}

void ProgressLine::operator()(const ProgressReport& report) {
  if (quiet_) return;
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  if (report.fraction < 0) {
    clear();
    fmt::print(stderr, "[{:>6}] {}: {}\n", format_seconds(seconds), report.stage, report.detail);
    return;
  }
  if (now - last_told_ < interval_) return;
  last_told_ = now;
  clear();
  const std::string left =
      report.fraction > 0.03 ? ", " + format_seconds(seconds / report.fraction * (1 - report.fraction)) + " left" : "";
  fmt::print(stderr, "[{:>6}{}] {:3.0f}% {} {}{}", format_seconds(seconds), left, 100 * report.fraction, report.stage,
             report.detail.substr(0, 60), terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = terminal_;
}

}  // namespace scalebits::cli
