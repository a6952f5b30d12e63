#include "pipeline/search.h"

#include "allocate/knapsack.h"
#include "core/error.h"
#include "pipeline/one_shot.h"
#include "pipeline/plan_budget.h"
#include "pipeline/search_journal.h"
#include "pipeline/search_scoring.h"
#include "pipeline/width_rules.h"

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

/// Costs of 0 throughout, for who needs bytes alone.
SensitivityTable no_scores(const RoundedMatrices& matrices) {
  SensitivityTable table;
  for (const auto& matrix : matrices)
    table.scores.emplace_back(matrix ? static_cast<std::size_t>(matrix->format().block_count()) : 0, WidthScores{});
  return table;
}

double block_count(const BitPlan& plan) {
  std::size_t count = 0;
  for (const auto& widths : plan.widths) count += widths.size();
  return static_cast<double>(count);
}

/// Marks in `held` the blocks in which `rejected` differs from `plan`.
void hold_changes(const BitPlan& rejected, const BitPlan& plan, BitPlan& held) {
  if (held.widths.empty())
    for (const auto& widths : plan.widths) held.widths.emplace_back(widths.size(), std::uint8_t{0});
  for (std::size_t m = 0; m < rejected.widths.size(); ++m)
    for (std::size_t i = 0; i < rejected.widths[m].size(); ++i)
      if (rejected.widths[m][i] != plan.widths[m][i]) held.widths[m][i] = 1;
}

class Search {
 public:
  Search(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe, const Budget& budget,
         SearchState state, const SearchCallbacks& callbacks, RoundedMatrices matrices)
      : checkpoint_(checkpoint), recipe_(recipe), state_(std::move(state)), matrices_(std::move(matrices)),
        processes_(callbacks.processes != nullptr ? *callbacks.processes : alone_),
        plans_(recipe, budget, state_, matrices_), journal_(state_, plans_, callbacks, processes_.all()),
        scoring_(checkpoint, calibration, recipe, matrices_, state_, journal_, callbacks, processes_) {}

  SearchResult run(bool from_frontier) {
    if (state_.phase == SearchState::Phase::order) {
      order();
    } else if (matrices_.empty()) {
      round();
    }
    plans_.require_feasible();
    if (recipe_.allocator != Allocator::scalebits) {
      if (state_.phase != SearchState::Phase::done || from_frontier) decide_at_once(from_frontier);
    } else if (from_frontier) {
      take_from_frontier();
    }
    if (state_.phase == SearchState::Phase::descend) descend();
    if (state_.phase == SearchState::Phase::swap) swap();
    return {std::move(state_), std::move(matrices_), cost_, least_cost_};
  }

 private:
  void round(unsigned widths = kAllWidths) {
    Recipe recipe = recipe_;
    recipe.groups.code_widths &= widths;
    matrices_ = round_matrices(
        checkpoint_, state_.partition, state_.importance, recipe,
        [&](const std::string& name) { journal_.report(0.0, "rounding", name); }, &processes_);
  }

  /// Those that a uniform plan of `bits` comes to under the recipe's rules, and `bits`.
  unsigned widths_at(int bits) const {
    unsigned widths = 1u << bits;
    for (const MatrixPartition& matrix : state_.partition.matrices) {
      const WidthRange range = width_range(recipe_, matrix.name);
      if (range.rounded) widths |= 1u << std::clamp(bits, range.min, range.max);
    }
    return widths;
  }

  void order() {
    const Stopwatch watch;
    state_.partition = identity_partition(checkpoint_.spec, rounds_vocabulary(recipe_));
    if (recipe_.clip == ClipWeighting::inputs) scoring_.measure_inputs();
    double loss = 0;
    if (recipe_.reordering == Reordering::none) {
      round();
    } else {
      round(widths_at(recipe_.order_bits));
      journal_.report(0.02, "ordering channels", "");
      std::vector<ChannelScores> channels = no_channel_scores(state_.partition);
      loss = scoring_.score_channels(plans_.uniform(recipe_.order_bits), recipe_.order_bits, plans_.descent_steps() + 2,
                                     channels);
      state_.partition = reorder(checkpoint_.spec, state_.partition, channels, recipe_.reordering);
      round();
    }
    state_.plan = plans_.uniform(plans_.start_bits());
    state_.swap_fraction = recipe_.swap_fraction;
    journal_.note({"order", plans_.code_bits(state_.plan), loss, watch.seconds(), 0, 0, true});
    journal_.finish_phase(SearchState::Phase::descend);
  }

  void descend() {
    const auto start_bytes = static_cast<double>(plans_.stored_bytes(plans_.uniform(plans_.start_bits())));
    const int steps = plans_.descent_steps();
    for (int step = static_cast<int>(state_.frontier.size());
         plans_.stored_bytes(state_.plan) > plans_.bytes() || step == 0; ++step) {
      const Stopwatch watch;
      journal_.report(0.1 + 0.5 * step / steps, "descending",
                      fmt::format("{:.3f} bits", plans_.code_bits(state_.plan)));
      scoring_.fit_into_time(std::max(1, steps + 1 - step));
      const double loss = recipe_.refresh || step == 0 ? scoring_.score(state_.plan) : 0.0;
      add_to_frontier(loss);
      const double part = std::min(1.0, static_cast<double>(step + 1) / steps);
      const auto target = static_cast<std::uint64_t>(
          std::llround(start_bytes + part * (static_cast<double>(plans_.bytes()) - start_bytes)));
      const MoveLimits limits{.lower_by = step > 3 * steps ? 8 : 1, .raise_by = 1, .raise_trust = recipe_.raise_trust};
      BitPlan next = plans_.allocate_within(target, limits);
      if (step > 3 * steps && next == state_.plan) throw InternalError("the descent stands still above the budget");
      journal_.move_to(std::move(next), "descend", loss, watch);
    }
    state_.best_validation_loss = scoring_.validation_loss(state_.plan);
    journal_.finish_phase(SearchState::Phase::swap);
  }

  void add_to_frontier(double loss) {
    state_.frontier.push_back(
        {plans_.stored_bytes(state_.plan), plans_.code_bits(state_.plan), loss, state_.plan, state_.scores});
  }

  /// Other allocators than ours: one table of scores, one plan. BAQ and SFMP take theirs at the highest precision there
  /// is, those that trust the costs as near to the budget as there are any.
  void decide_at_once(bool from_frontier) {
    const Stopwatch watch;
    const Allocator allocator = recipe_.allocator;
    const bool at_full_precision = allocator == Allocator::baq || allocator == Allocator::fisher_quantile;
    double loss = 0;
    if (from_frontier) {
      const FrontierPoint& point =
          at_full_precision && !state_.frontier.empty() ? state_.frontier.front() : plans_.nearest_above();
      state_.scores = point.scores;
      state_.plan = point.plan;
      loss = point.loss;
    } else {
      state_.plan = plans_.uniform(at_full_precision ? 8 : plans_.start_bits());
      journal_.report(0.2, "scoring", name_of(allocator).data());
      if (allocator != Allocator::uniform && allocator != Allocator::baq_layer) {
        loss = scoring_.score(state_.plan);
        state_.frontier.clear();
        add_to_frontier(loss);
      }
    }
    if (state_.scores.scores.empty()) state_.scores = no_scores(matrices_);
    AllocationProblem problem{.choices = plans_.choices(state_.plan)};
    if (allocator == Allocator::baq || allocator == Allocator::baq_layer)
      problem.baq_loss = baq_losses(matrices_, state_.importance,
                                    allocator == Allocator::baq ? &state_.scores : nullptr, recipe_.order_bits);
    if (allocator == Allocator::fisher_quantile)
      problem.salience = saliences(matrices_, state_.scores, recipe_.order_bits);
    BitPlan plan = plans_.within_budget(problem.choices, plans_.bytes(), [&](std::uint64_t target_bytes) {
      problem.target_bytes = target_bytes;
      return allocate_with(allocator, problem);
    });
    state_.best_validation_loss = scoring_.validation_loss(plan);
    state_.phase = SearchState::Phase::done;  // of what is saved next: whoever goes on there scores nothing again
    journal_.move_to(std::move(plan), name_of(allocator).data(), loss, watch);
    if (from_frontier) set_costs(plans_.nearest_above());
    journal_.finish_phase(SearchState::Phase::done);
  }

  /// The nearest plan of an earlier descent, brought down with the scores taken there.
  void take_from_frontier() {
    const FrontierPoint& nearest = plans_.nearest_above();
    const Stopwatch watch;
    state_.scores = nearest.scores;
    state_.plan = nearest.plan;
    const double loss = nearest.loss;
    for (int step = 0; plans_.stored_bytes(state_.plan) > plans_.bytes(); ++step) {
      const MoveLimits limits{.lower_by = step > 8 ? 8 : 1, .raise_trust = recipe_.raise_trust};
      journal_.move_to(plans_.allocate_within(plans_.bytes(), limits), "frontier", loss, watch);
    }
    state_.best_validation_loss = scoring_.validation_loss(state_.plan);
    set_costs(nearest);
    journal_.finish_phase(SearchState::Phase::done);
  }

  /// Of the present plan, by what our own allocator goes by: the scores at `point`.
  void set_costs(const FrontierPoint& point) {
    state_.scores = point.scores;
    const Choices all = plans_.choices(point.plan);
    const Knapsack knapsack = knapsack_of(all);
    cost_ = cost_of_plan(knapsack, state_.plan);
    least_cost_ = relax(knapsack, bytes_of_plan(all, state_.plan)).lower_bound;
  }

  /// Each trial raises some blocks, pays with others, and is judged on the held-out windows. A rejected one halves what
  /// the next one moves; at the least, its blocks are left alone until a swap is accepted.
  void swap() {
    double trial_seconds = scoring_.seconds_per_pass(), loss = 0;
    while (state_.swap_step < recipe_.swap_steps && scoring_.has_time_for(trial_seconds)) {
      const Stopwatch watch;
      journal_.report(0.6 + 0.4 * state_.swap_step / recipe_.swap_steps, "swapping",
                      fmt::format("held-out loss {:.4f}", state_.best_validation_loss));
      if (!state_.scored && recipe_.refresh) loss = scoring_.score(state_.plan);
      state_.scored = true;
      // The held-out windows judge what a raise brings, so here its prediction counts in full.
      const MoveLimits limits{.held = state_.held.widths.empty() ? nullptr : &state_.held};
      const Choices all = plans_.choices(state_.plan);
      const auto count = std::max<std::int64_t>(1, std::llround(state_.swap_fraction * block_count(state_.plan)));
      const std::uint64_t block_bytes = plans_.block_bytes_for(all, state_.plan, plans_.bytes());
      BitPlan candidate = swap_bits(all, state_.plan, block_bytes, count, limits);
      if (candidate == state_.plan) break;
      const bool fits = plans_.stored_bytes(candidate) <= plans_.bytes();
      const double candidate_loss = fits ? scoring_.validation_loss(candidate) : INFINITY;
      ++state_.swap_step;
      if (candidate_loss < state_.best_validation_loss) {
        state_.best_validation_loss = candidate_loss;
        state_.held = {};
        state_.scored = false;
        journal_.move_to(std::move(candidate), "swap", loss, watch);
      } else {
        journal_.reject(candidate, "swap", candidate_loss, watch);
        if (count > 1 && state_.swap_fraction > recipe_.min_swap_fraction) {
          state_.swap_fraction = std::max(state_.swap_fraction / 2, recipe_.min_swap_fraction);
        } else {
          hold_changes(candidate, state_.plan, state_.held);
        }
        journal_.save();
      }
      trial_seconds = std::max(trial_seconds, watch.seconds());
    }
    journal_.finish_phase(SearchState::Phase::done);
  }

  const Checkpoint& checkpoint_;
  const Recipe& recipe_;
  SearchState state_;
  RoundedMatrices matrices_;
  double cost_ = 0, least_cost_ = 0;
  JobProcesses alone_;
  JobProcesses& processes_;
  PlanBudget plans_;
  SearchJournal journal_;
  SearchScoring scoring_;
};

}  // namespace

void require_feasible(const Checkpoint& checkpoint, const Recipe& recipe, const Budget& budget) {
  SearchState state;
  state.partition = identity_partition(checkpoint.spec, rounds_vocabulary(recipe));
  if (recipe.reordering != Reordering::none)  // any order takes as many bytes as the one that will be found
    state.partition = reorder(checkpoint.spec, state.partition, no_channel_scores(state.partition), recipe.reordering);
  Recipe formats_alone = recipe;  // a quarter of a byte per weight less than with codes
  formats_alone.groups.code_widths = 0;
  const RoundedMatrices matrices = round_matrices(checkpoint, state.partition, {}, formats_alone);
  PlanBudget(recipe, budget, state, matrices).require_feasible();
}

SearchResult run_search(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                        const Budget& budget, SearchState state, const SearchCallbacks& callbacks) {
  return Search(checkpoint, calibration, recipe, budget, std::move(state), callbacks, {}).run(false);
}

SearchResult plan_from_frontier(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                                const Budget& budget, SearchState state, const SearchCallbacks& callbacks,
                                RoundedMatrices matrices) {
  if (state.phase == SearchState::Phase::order)
    fail_input("the frontier file holds no descent: let the search that makes it get past the ordering of channels");
  state.gradient_windows = 0;  // a limit was the earlier search's
  return Search(checkpoint, calibration, recipe, budget, std::move(state), callbacks, std::move(matrices)).run(true);
}

}  // namespace scalebits
