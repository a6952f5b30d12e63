#include "train/scheme_schedule.h"

#include <chrono>

namespace scalebits {
namespace {

/// A scheme that was asked for in front of update s runs from update s + this on: meanwhile the programme is solved.
constexpr std::uint64_t kInstallDelay = 2;

}  // namespace

double SchemeSchedule::settle(const std::function<SchemeQuestion()>& question) {
  const auto start = std::chrono::steady_clock::now();
  const bool first = state_.scheme.empty();
  const bool due = is_adaptive(options_.kind) && (state_.step - first_step_) % options_.update_interval == 0;
  if (first || due) {
    const auto solve = ask_for_scheme(question());
    if (first) {
      state_.scheme = solve();  // nothing to train with meanwhile
    } else {
      waiting_ = std::async(std::launch::async, solve);
      state_.install_step = state_.step + kInstallDelay;
    }
  }
  if (state_.step >= state_.install_step) {
    resolve();
    if (!state_.pending.empty()) {
      state_.scheme = std::move(state_.pending);
      state_.pending.clear();
    }
  }
  return first || due ? std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() : 0;
}

void SchemeSchedule::resolve() {
  if (!waiting_.valid()) return;
  state_.pending = waiting_.get();
  group_.require_same("precision scheme", to_json(spec_, state_.pending).dump());
}

}  // namespace scalebits
