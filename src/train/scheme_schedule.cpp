#include "train/scheme_schedule.h"

#include <chrono>
#include <utility>

namespace scalebits {
SchemeSchedule::Settled SchemeSchedule::settle(const std::function<SchemeQuestion()>& question) {
  const auto start = std::chrono::steady_clock::now();
  Settled settled;
  const bool first = state_.scheme.empty();
  if (state_.step >= state_.install_step) {
    resolve();
    if (!state_.pending.empty()) {
      state_.scheme = std::exchange(state_.pending, {});
      settled.installed = true;
    }
  }
  const bool due = is_adaptive(options_.kind) && (state_.step - first_step_) % options_.update_interval == 0;
  if (first || due) {
    const auto solve = ask_for_scheme(question());
    if (first) {
      state_.scheme = solve();  // nothing to train with meanwhile
      settled.installed = true;
    } else {
      waiting_ = std::async(std::launch::async, solve);
      state_.install_step = state_.step + kInstallDelay;
    }
  }
  if (first || due || settled.installed)
    settled.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return settled;
}

void SchemeSchedule::resolve() {
  if (!waiting_.valid()) return;
  state_.pending = waiting_.get();
  group_.require_same("precision scheme", to_json(spec_, state_.pending).dump());
}

}  // namespace scalebits
