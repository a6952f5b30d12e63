#include "pipeline/search.h"

#include "allocate/knapsack.h"
#include "core/units.h"
#include "core/hash.h"
#include "pipeline/one_shot.h"
#include "pipeline/search_passes.h"
#include "pipeline/width_rules.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

namespace scalebits {
namespace {

/// Smallest drop of the mean width for which one gradient serves; a larger gap to the budget takes more steps.
constexpr double kLargestDropBits = 0.45;

void check_feasible(const Budget& budget, const Partition& partition, const RoundedMatrices& matrices,
                    const Recipe& recipe) {
  const auto stored = [&](int bits) {
    return budget.stored_bytes(partition, matrices, uniform_plan(matrices, recipe, bits));
  };
  if (const std::uint64_t smallest = stored(0); budget.bytes < smallest) {
    const std::uint64_t largest = stored(8);
    if (recipe.bpw) {
      const double rate_per_byte = *recipe.bpw / static_cast<double>(budget.bytes);
      fail(ErrorKind::infeasible_budget, "{:g} bpw cannot be met: feasible are {:.3f} to {:.3f} under this recipe",
           *recipe.bpw, rate_per_byte * static_cast<double>(smallest), rate_per_byte * static_cast<double>(largest));
    }
    fail(ErrorKind::infeasible_budget,
         "the budget of {} bytes cannot be met: feasible are {} ({}) to {} ({}) bytes under this recipe", budget.bytes,
         smallest, format_bytes(smallest), largest, format_bytes(largest));
  }
}

std::string hash_of(const BitPlan& plan) {
  Hasher hasher;
  for (const auto& widths : plan.widths) hasher.update(std::as_bytes(std::span(widths)));
  return hasher.hex();
}

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class Search {
 public:
  Search(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe, const Budget& budget,
         SearchState state, const SearchCallbacks& callbacks, bool from_frontier, RoundedMatrices matrices = {})
      : checkpoint_(checkpoint), calibration_(calibration), recipe_(recipe), budget_(budget), state_(std::move(state)),
        callbacks_(callbacks), from_frontier_(from_frontier), matrices_(std::move(matrices)) {}

  SearchResult run() {
    if (state_.phase == SearchState::Phase::order) {
      order();
    } else if (matrices_.empty()) {
      matrices_ = rounded();
    }
    check_feasible(budget_, state_.partition, matrices_, recipe_);
    if (recipe_.allocator != Allocator::scalebits) {
      if (state_.phase != SearchState::Phase::done || from_frontier_) decide_at_once();
    } else if (from_frontier_) {
      take_from_frontier();
    }
    if (state_.phase == SearchState::Phase::descend) descend();
    if (state_.phase == SearchState::Phase::swap) swap();
    return {std::move(state_), std::move(matrices_), cost_, least_cost_};
  }

 private:
  // ---- what is rounded, and to what -------------------------------------------------------------------------------

  RoundedMatrices rounded() {
    return round_matrices(
        checkpoint_, state_.partition, state_.importance, recipe_,
        [&](const std::string& name) { report(0.0, "rounding", name); }, &group_);
  }

  BitPlan uniform(int bits) const { return uniform_plan(matrices_, recipe_, bits); }

  double code_bits(const BitPlan& plan) const {
    double bits = 0, weights = 0;
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      if (!matrices_[m]) continue;
      const MatrixFormat& format = matrices_[m]->format();
      for (std::int64_t row = 0; row < format.block_row_count(); ++row)
        for (std::int64_t col = 0; col < format.block_col_count(); ++col) {
          const auto count = static_cast<double>(format.block_weights(row, col));
          bits += count * plan.widths[m][static_cast<std::size_t>(format.block_index(row, col))];
          weights += count;
        }
    }
    return weights > 0 ? bits / weights : 0;
  }

  std::uint64_t stored_bytes(const BitPlan& plan) const {
    return budget_.stored_bytes(state_.partition, matrices_, plan);
  }

  // ---- passes -----------------------------------------------------------------------------------------------------

  std::int64_t gradient_windows() const {
    return state_.gradient_windows > 0 ? state_.gradient_windows : recipe_.windows_per_gradient;
  }

  at::Tensor next_windows() {
    const std::int64_t available = calibration_.gradient_windows.size(0);
    const std::int64_t count = std::min<std::int64_t>(gradient_windows(), available);
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < count; ++i) rows.push_back((state_.next_window + i) % available);
    state_.next_window += count;
    return calibration_.gradient_windows.index_select(0, at::tensor(rows, at::TensorOptions().dtype(at::kLong)));
  }

  /// Scores at `plan`, averaged with those of earlier passes.
  double score(const BitPlan& plan) {
    SensitivityTable table;
    const double loss = passes_.score_blocks(plan, next_windows(), table);
    for (std::size_t m = 0; m < matrices_.size(); ++m)
      if (matrices_[m] && is_vocabulary(matrices_[m]->name()))
        lift_unseen_rows(matrices_[m]->format(), table.scores[m]);
    if (state_.scores.scores.empty()) {
      state_.scores = std::move(table);
      return loss;
    }
    const auto memory = static_cast<float>(recipe_.score_memory);
    for (std::size_t m = 0; m < table.scores.size(); ++m)
      for (std::size_t i = 0; i < table.scores[m].size(); ++i)
        for (std::size_t bits = 0; bits < 9; ++bits) {
          float& mean = state_.scores.scores[m][i][bits];
          mean = memory * mean + (1 - memory) * table.scores[m][i][bits];
        }
    return loss;
  }

  /// A batch sees few of the vocabulary's rows, and the next batch sees others: a block of embedding or head counts for
  /// no less than the mean of its block column.
  static void lift_unseen_rows(const MatrixFormat& format, std::vector<WidthScores>& scores) {
    for (std::int64_t col = 0; col < format.block_col_count(); ++col) {
      std::array<double, 9> mean{};
      for (std::int64_t row = 0; row < format.block_row_count(); ++row)
        for (std::size_t bits = 0; bits < 9; ++bits)
          mean[bits] += scores[static_cast<std::size_t>(format.block_index(row, col))][bits] /
                        static_cast<double>(format.block_row_count());
      for (std::int64_t row = 0; row < format.block_row_count(); ++row)
        for (std::size_t bits = 0; bits < 9; ++bits) {
          float& score = scores[static_cast<std::size_t>(format.block_index(row, col))][bits];
          score = std::max(score, static_cast<float>(mean[bits]));
        }
    }
  }

  double validation_loss(const BitPlan& plan) {
    const at::Tensor& windows = calibration_.validation_windows;
    return windows.defined() ? passes_.validation_loss(plan, windows) : 0;
  }

  Choices choices(const BitPlan& plan) const {
    Choices result;
    for (std::size_t m = 0; m < matrices_.size(); ++m) {
      MatrixChoices matrix;
      if (matrices_[m]) {
        const WidthRange range = width_range(recipe_, matrices_[m]->name());
        matrix = {costs_of(state_.scores.scores[m], plan.widths[m], recipe_.cost_model),
                  bytes_of_blocks(matrices_[m]->format()), range.min, range.max};
      }
      result.push_back(std::move(matrix));
    }
    return result;
  }

  /// What the blocks may take so that the whole meets `stored_target`: tags, padding and tables change little with a
  /// plan.
  std::uint64_t block_bytes_for(const Choices& choices, const BitPlan& plan, std::uint64_t stored_target) const {
    const auto overhead =
        static_cast<std::int64_t>(stored_bytes(plan)) -
        static_cast<std::int64_t>(bytes_of_plan(choices, plan));  // negative when some are not counted
    return static_cast<std::uint64_t>(std::max<std::int64_t>(0, static_cast<std::int64_t>(stored_target) - overhead));
  }

  // ---- phases -----------------------------------------------------------------------------------------------------

  void order() {
    const Stopwatch watch;
    state_.partition = identity_partition(checkpoint_.spec, recipe_.embedding != EmbeddingMode::sixteen_bits);
    measure_inputs();
    matrices_ = rounded();
    double loss = 0;
    if (recipe_.reordering != Reordering::none) {
      report(0.02, "ordering channels", "");
      std::vector<ChannelScores> channels = no_channel_scores(state_.partition);
      fit_into_time(descent_steps() + 2);
      const Stopwatch pass;
      loss = passes_.score_channels(uniform(recipe_.order_bits), next_windows(), recipe_.order_bits, channels);
      window_seconds_ = group_.from_first(pass.seconds() / static_cast<double>(gradient_windows()));
      state_.partition = reorder(checkpoint_.spec, state_.partition, channels, recipe_.reordering);
      matrices_ = rounded();
    }
    state_.plan = uniform(start_bits());
    state_.swap_fraction = recipe_.swap_fraction;
    log_step({"order", code_bits(state_.plan), loss, watch.seconds(), 0, 0, true});
    finish_phase(SearchState::Phase::descend);
  }

  /// Mean squares of the linear layers' inputs in the full-precision model.
  void measure_inputs() {
    if (recipe_.clip != ClipWeighting::inputs) return;
    report(0.0, "measuring activations", "");
    const Stopwatch watch;
    state_.importance = passes_.input_moments(state_.partition, next_windows());
    window_seconds_ = 3 * watch.seconds() / static_cast<double>(gradient_windows());  // backward: twice the products
    window_seconds_ = group_.from_first(window_seconds_);
    state_.next_window = 0;
  }

  int start_bits() const {
    if (recipe_.start_bits > 0) return recipe_.start_bits;
    for (int bits = 4; bits < 8; ++bits)
      if (stored_bytes(uniform(bits)) > budget_.bytes) return bits;
    return 8;
  }

  int descent_steps() const {
    const double gap_bytes =
        static_cast<double>(stored_bytes(uniform(start_bits()))) - static_cast<double>(budget_.bytes);
    return std::max(recipe_.descent_steps, static_cast<int>(std::ceil(8.0 * gap_bytes / weights() / kLargestDropBits)));
  }

  void descend() {
    const std::uint64_t start_bytes = stored_bytes(uniform(start_bits()));
    const int steps = descent_steps();
    fit_into_time(steps + 1 - static_cast<int>(state_.frontier.size()));
    for (int step = static_cast<int>(state_.frontier.size()); stored_bytes(state_.plan) > budget_.bytes || step == 0;
         ++step) {
      const Stopwatch watch;
      report(0.1 + 0.5 * step / steps, "descending", fmt::format("{:.3f} bits", code_bits(state_.plan)));
      const double loss = recipe_.refresh || step == 0 ? score(state_.plan) : 0.0;
      state_.frontier.push_back({stored_bytes(state_.plan), code_bits(state_.plan), loss, state_.plan, state_.scores});
      const double part = std::min(1.0, static_cast<double>(step + 1) / steps);
      const auto target = static_cast<std::uint64_t>(
          std::llround(static_cast<double>(start_bytes) +
                       part * (static_cast<double>(budget_.bytes) - static_cast<double>(start_bytes))));
      const MoveLimits limits{.lower_by = step > 3 * steps ? 8 : 1, .raise_by = 1, .raise_trust = recipe_.raise_trust};
      move_to(allocate_within(target, limits), "descend", loss, watch);
    }
    state_.best_validation_loss = validation_loss(state_.plan);
    finish_phase(SearchState::Phase::swap);
  }

  /// With a time limit, fewer windows per gradient rather than fewer steps: `passes` more of them must fit into what is
  /// left, with a tenth to spare for packing.
  void fit_into_time(int passes) {
    const double left = 0.9 * (callbacks_.seconds_left - start_.seconds());
    const double affordable = group_.from_first(std::max(1.0, left / (passes * window_seconds_)));
    if (window_seconds_ <= 0 || affordable >= static_cast<double>(gradient_windows())) return;
    state_.gradient_windows = static_cast<std::int64_t>(affordable);
    report(-1, "time limit",
           fmt::format("{} windows per gradient instead of {}", state_.gradient_windows, recipe_.windows_per_gradient));
  }

  /// The nearest plan above the budget that an earlier descent passed.
  const FrontierPoint& nearest_above() const {
    const FrontierPoint* nearest = nullptr;
    for (const FrontierPoint& point : state_.frontier)
      if (const std::uint64_t bytes = stored_bytes(point.plan);
          bytes > budget_.bytes && (nearest == nullptr || bytes < stored_bytes(nearest->plan)))
        nearest = &point;
    if (nearest == nullptr)
      fail(ErrorKind::infeasible_budget,
           "the frontier starts at {} bytes, below the budget of {}; make one with more start_bits",
           state_.frontier.empty() ? 0 : stored_bytes(state_.frontier.front().plan), budget_.bytes);
    return *nearest;
  }

  /// Other allocators than ours: one table of scores, one plan. BAQ and SFMP take theirs at the highest precision there
  /// is, those that trust the costs as near to the budget as there are any.
  void decide_at_once() {
    const Stopwatch watch;
    const Allocator allocator = recipe_.allocator;
    const bool at_full_precision = allocator == Allocator::baq || allocator == Allocator::fisher_quantile;
    double loss = 0;
    if (from_frontier_) {
      const FrontierPoint& point =
          at_full_precision && !state_.frontier.empty() ? state_.frontier.front() : nearest_above();
      state_.scores = point.scores;
      state_.plan = point.plan;
      loss = point.loss;
    } else {
      state_.plan = uniform(at_full_precision ? 8 : start_bits());
      report(0.2, "scoring", name_of(allocator).data());
      if (allocator != Allocator::uniform && allocator != Allocator::baq_layer) {
        loss = score(state_.plan);
        state_.frontier = {{stored_bytes(state_.plan), code_bits(state_.plan), loss, state_.plan, state_.scores}};
      }
    }
    if (state_.scores.scores.empty()) state_.scores = no_scores();
    AllocationProblem problem{.choices = choices(state_.plan)};
    if (allocator == Allocator::baq || allocator == Allocator::baq_layer)
      problem.baq_loss = baq_losses(matrices_, state_.importance,
                                    allocator == Allocator::baq ? &state_.scores : nullptr, recipe_.order_bits);
    if (allocator == Allocator::fisher_quantile)
      problem.salience = saliences(matrices_, state_.scores, recipe_.order_bits);
    BitPlan plan = within_budget(problem.choices, budget_.bytes, [&](std::uint64_t target_bytes) {
      problem.target_bytes = target_bytes;
      return allocate_with(allocator, problem);
    });
    state_.best_validation_loss = validation_loss(plan);
    move_to(std::move(plan), name_of(allocator).data(), loss, watch);
    if (from_frontier_) set_costs(nearest_above());
    finish_phase(SearchState::Phase::done);
  }

  /// Costs of 0 throughout, for who needs bytes alone.
  SensitivityTable no_scores() const {
    SensitivityTable table;
    for (const auto& matrix : matrices_)
      table.scores.emplace_back(matrix ? static_cast<std::size_t>(matrix->format().block_count()) : 0, WidthScores{});
    return table;
  }

  /// That plan, brought down with the scores taken there.
  void take_from_frontier() {
    const FrontierPoint& nearest = nearest_above();
    const Stopwatch watch;
    state_.scores = nearest.scores;
    state_.plan = nearest.plan;
    const double loss = nearest.loss;
    for (int step = 0; stored_bytes(state_.plan) > budget_.bytes; ++step)
      move_to(allocate_within(budget_.bytes, {.lower_by = step > 8 ? 8 : 1, .raise_trust = recipe_.raise_trust}),
              "frontier", loss, watch);
    state_.best_validation_loss = validation_loss(state_.plan);
    set_costs(nearest);
    finish_phase(SearchState::Phase::done);
  }

  /// Of the present plan, by what our own allocator goes by: the scores at `point`.
  void set_costs(const FrontierPoint& point) {
    state_.scores = point.scores;
    const Choices all = choices(point.plan);
    const Knapsack knapsack = knapsack_of(all);
    cost_ = cost_of_plan(knapsack, state_.plan);
    least_cost_ = relax(knapsack, bytes_of_plan(all, state_.plan)).lower_bound;
  }

  BitPlan allocate_within(std::uint64_t stored_target, const MoveLimits& limits) const {
    const Choices all = choices(state_.plan);
    return within_budget(all, stored_target,
                         [&](std::uint64_t target) { return allocate(all, state_.plan, target, limits); });
  }

  /// `plan_for(bytes of the blocks)` until the exact stored size fits: the part of it that does not add up block by
  /// block is small.
  template <typename PlanFor>
  BitPlan within_budget(const Choices& all, std::uint64_t stored_target, const PlanFor& plan_for) const {
    std::uint64_t target = block_bytes_for(all, state_.plan, stored_target);
    BitPlan plan = plan_for(target);
    for (int attempt = 0; attempt < 8 && stored_target == budget_.bytes; ++attempt) {
      const std::uint64_t stored = stored_bytes(plan);
      if (stored <= stored_target || bytes_of_plan(all, plan) > target) break;
      target -= std::min(target, stored - stored_target);
      plan = plan_for(target);
    }
    return plan;
  }

  /// Each trial raises some blocks, pays with others, and is judged on the held-out windows. A rejected one halves what
  /// the next one moves; at the least, its blocks are left alone until a swap is accepted.
  void swap() {
    double trial_seconds = window_seconds_ * static_cast<double>(gradient_windows()), loss = 0;
    while (state_.swap_step < recipe_.swap_steps) {
      const double end = group_.from_first(start_.seconds() + trial_seconds);
      if (end > 0.95 * callbacks_.seconds_left) break;
      const Stopwatch watch;
      report(0.6 + 0.4 * state_.swap_step / recipe_.swap_steps, "swapping",
             fmt::format("held-out loss {:.4f}", state_.best_validation_loss));
      if (!state_.scored && recipe_.refresh) loss = score(state_.plan);
      state_.scored = true;
      // The held-out windows judge what a raise brings, so here its prediction counts in full.
      const MoveLimits limits{.held = state_.held.widths.empty() ? nullptr : &state_.held};
      const Choices all = choices(state_.plan);
      const auto count = std::max<std::int64_t>(1, std::llround(state_.swap_fraction * block_count()));
      BitPlan candidate = swap_bits(all, state_.plan, block_bytes_for(all, state_.plan, budget_.bytes), count, limits);
      if (candidate == state_.plan) break;
      const double candidate_loss = stored_bytes(candidate) <= budget_.bytes ? validation_loss(candidate) : INFINITY;
      ++state_.swap_step;
      if (candidate_loss < state_.best_validation_loss) {
        state_.best_validation_loss = candidate_loss;
        state_.held = {};
        state_.scored = false;
        move_to(std::move(candidate), "swap", loss, watch);
      } else {
        SearchStep step = step_to(candidate, "swap", candidate_loss, watch);
        step.accepted = false;
        log_step(step);
        if (count > 1 && state_.swap_fraction > recipe_.min_swap_fraction) {
          state_.swap_fraction = std::max(state_.swap_fraction / 2, recipe_.min_swap_fraction);
        } else {
          hold_changes(candidate);
        }
        save();
      }
      trial_seconds = std::max(trial_seconds, watch.seconds());
    }
    finish_phase(SearchState::Phase::done);
  }

  double block_count() const {
    std::size_t count = 0;
    for (const auto& widths : state_.plan.widths) count += widths.size();
    return static_cast<double>(count);
  }

  void hold_changes(const BitPlan& rejected) {
    if (state_.held.widths.empty())
      for (const auto& widths : state_.plan.widths) state_.held.widths.emplace_back(widths.size(), std::uint8_t{0});
    for (std::size_t m = 0; m < rejected.widths.size(); ++m)
      for (std::size_t i = 0; i < rejected.widths[m].size(); ++i)
        if (rejected.widths[m][i] != state_.plan.widths[m][i]) state_.held.widths[m][i] = 1;
  }

  // ---- between steps ----------------------------------------------------------------------------------------------

  SearchStep step_to(const BitPlan& plan, const char* phase, double loss, const Stopwatch& watch) const {
    SearchStep step{phase, code_bits(plan), loss, watch.seconds(), 0, 0, true};
    for (std::size_t m = 0; m < plan.widths.size(); ++m)
      for (std::size_t i = 0; i < plan.widths[m].size(); ++i) {
        step.lowered += plan.widths[m][i] < state_.plan.widths[m][i];
        step.raised += plan.widths[m][i] > state_.plan.widths[m][i];
      }
    return step;
  }

  void move_to(BitPlan plan, const char* phase, double loss, const Stopwatch& watch) {
    const SearchStep step = step_to(plan, phase, loss, watch);
    state_.plan = std::move(plan);
    group_.require_same("plan", hash_of(state_.plan));
    log_step(step);
    save();
  }

  void finish_phase(SearchState::Phase next) {
    state_.phase = next;
    save();
  }

  void log_step(const SearchStep& step) {
    state_.log.push_back(step);
    report(-1, step.phase,
           fmt::format("{:.3f} bits, loss {:.4f}, {} lowered, {} raised{}, {:.1f} s", step.code_bits, step.loss,
                       step.lowered, step.raised, step.accepted ? "" : ", rejected", step.seconds));
  }

  void save() {
    if (group_.is_first() && callbacks_.save_state) callbacks_.save_state(state_);
    if (group_.any(interrupt_requested)) fail(ErrorKind::interrupted, "interrupted");
  }

  void report(double fraction, const std::string& stage, const std::string& detail) const {
    if (callbacks_.progress) callbacks_.progress({fraction, stage, detail});
  }

  double weights() const {
    double count = 0;
    for (const auto& matrix : matrices_)
      if (matrix) count += static_cast<double>(matrix->format().rows * matrix->format().cols);
    return count;
  }

  const Checkpoint& checkpoint_;
  const CalibrationSet& calibration_;
  const Recipe& recipe_;
  const Budget& budget_;
  SearchState state_;
  const SearchCallbacks& callbacks_;
  bool from_frontier_;
  Stopwatch start_;
  double window_seconds_ = 0;  // of a gradient pass, per window; 0: not known yet
  double cost_ = 0, least_cost_ = 0;
  RoundedMatrices matrices_;
  ProcessGroup alone_;
  ProcessGroup& group_ = callbacks_.group != nullptr ? *callbacks_.group : alone_;
  SearchPasses passes_{checkpoint_, recipe_, matrices_, group_, callbacks_.device};
};

}  // namespace

void require_feasible(const Checkpoint& checkpoint, const Recipe& recipe, const Budget& budget) {
  Partition partition = identity_partition(checkpoint.spec, recipe.embedding != EmbeddingMode::sixteen_bits);
  if (recipe.reordering != Reordering::none)  // any order takes as many bytes as the one that will be found
    partition = reorder(checkpoint.spec, partition, no_channel_scores(partition), recipe.reordering);
  Recipe unclipped = recipe;
  unclipped.clip = ClipWeighting::none;
  const RoundedMatrices matrices = round_matrices(checkpoint, partition, {}, unclipped);
  check_feasible(budget, partition, matrices, recipe);
}

SearchResult run_search(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                        const Budget& budget, SearchState state, const SearchCallbacks& callbacks) {
  return Search(checkpoint, calibration, recipe, budget, std::move(state), callbacks, false).run();
}

SearchResult plan_from_frontier(const Checkpoint& checkpoint, const CalibrationSet& calibration, const Recipe& recipe,
                                const Budget& budget, SearchState state, const SearchCallbacks& callbacks,
                                RoundedMatrices matrices) {
  if (state.phase == SearchState::Phase::order)
    fail_input("the frontier file holds no descent: let the search that makes it get past the ordering of channels");
  return Search(checkpoint, calibration, recipe, budget, std::move(state), callbacks, true, std::move(matrices)).run();
}

}  // namespace scalebits
