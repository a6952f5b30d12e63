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

std::string ProgressLine::left(const ProgressReport& report, Clock::time_point now) {
  constexpr double kPaceShows = 0.02;  // of the whole job
  if (report.stage != stage_ || report.fraction < stage_fraction_) {
    stage_ = report.stage;
    stage_start_ = now;
    stage_fraction_ = report.fraction;
  }
  const auto estimate = [&](Clock::time_point since, double done) {
    const double seconds = std::chrono::duration<double>(now - since).count();
    return ", " + format_seconds(seconds / done * (1 - report.fraction)) + " left";
  };
  if (report.fraction - stage_fraction_ >= kPaceShows) return estimate(stage_start_, report.fraction - stage_fraction_);
  return report.fraction >= kPaceShows ? estimate(start_, report.fraction) : "";
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
  const std::string left = this->left(report, now);
  if (now - last_told_ < interval_) return;
  last_told_ = now;
  clear();
  fmt::print(stderr, "[{:>6}{}] {:3.0f}% {} {}{}", format_seconds(seconds), left, 100 * report.fraction, report.stage,
             report.detail.substr(0, 60), terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = terminal_;
}

}  // namespace scalebits::cli
