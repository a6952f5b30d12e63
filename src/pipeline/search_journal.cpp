#include "pipeline/search_journal.h"

#include "core/error.h"
#include "core/hash.h"

namespace scalebits {
namespace {

std::string hash_of(const BitPlan& plan) {
  Hasher hasher;
  for (const auto& widths : plan.widths) hasher.update(std::as_bytes(std::span(widths)));
  return hasher.hex();
}

}  // namespace

void SearchJournal::report(double fraction, const std::string& stage, const std::string& detail) const {
  if (callbacks_.progress) callbacks_.progress({fraction, stage, detail});
}

SearchStep SearchJournal::step_to(const BitPlan& plan, const char* phase, double loss, const Stopwatch& watch) const {
  SearchStep step{phase, plans_.code_bits(plan), loss, watch.seconds(), 0, 0, true};
  for (std::size_t m = 0; m < plan.widths.size(); ++m)
    for (std::size_t i = 0; i < plan.widths[m].size(); ++i) {
      step.lowered += plan.widths[m][i] < state_.plan.widths[m][i];
      step.raised += plan.widths[m][i] > state_.plan.widths[m][i];
    }
  return step;
}

void SearchJournal::move_to(BitPlan plan, const char* phase, double loss, const Stopwatch& watch) {
  const SearchStep step = step_to(plan, phase, loss, watch);
  state_.plan = std::move(plan);
  group_.require_same("plan", hash_of(state_.plan));
  note(step);
  save();
}

void SearchJournal::reject(const BitPlan& plan, const char* phase, double loss, const Stopwatch& watch) {
  SearchStep step = step_to(plan, phase, loss, watch);
  step.accepted = false;
  note(step);
}

void SearchJournal::note(const SearchStep& step) {
  state_.log.push_back(step);
  report(-1, step.phase,
         fmt::format("{:.3f} bits{}, {} lowered, {} raised{}, {:.1f} s", step.code_bits,
                     step.loss > 0 ? fmt::format(", scored at a loss of {:.4f}", step.loss) : "", step.lowered,
                     step.raised, step.accepted ? "" : ", rejected", step.seconds));
}

void SearchJournal::finish_phase(SearchState::Phase next) {
  state_.phase = next;
  save();
}

void SearchJournal::save() {
  if (group_.is_first() && callbacks_.save_state) callbacks_.save_state(state_);
  if (group_.any(interrupt_requested)) fail(ErrorKind::interrupted, "interrupted");
}

}  // namespace scalebits
