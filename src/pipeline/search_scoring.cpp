#include "pipeline/search_scoring.h"

#include "core/error.h"
#include "pipeline/width_rules.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

namespace scalebits {
namespace {

/// A batch sees few of the vocabulary's rows, and the next batch sees others: a block of embedding or head counts for
/// no less than the mean of its block column.
void lift_unseen_rows(const MatrixFormat& format, std::vector<WidthScores>& scores) {
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

}  // namespace

at::Tensor held_out_windows(const CalibrationSet& calibration, const SearchState& state) {
  const at::Tensor& all = calibration.validation_windows;
  if (!all.defined() || state.gradient_windows == 0) return all;
  return all.narrow(0, 0, std::min(all.size(0), std::max<std::int64_t>(4, state.gradient_windows)));
}

std::int64_t SearchScoring::gradient_windows() const {
  return state_.gradient_windows > 0 ? state_.gradient_windows : recipe_.windows_per_gradient;
}

at::Tensor SearchScoring::next_windows() {
  const std::int64_t available = calibration_.gradient_windows.size(0);
  const std::int64_t count = std::min<std::int64_t>(gradient_windows(), available);
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < count; ++i) rows.push_back((state_.next_window + i) % available);
  state_.next_window += count;
  return calibration_.gradient_windows.index_select(0, at::tensor(rows, at::TensorOptions().dtype(at::kLong)));
}

void SearchScoring::measure_inputs() {
  journal_.report(0.0, "measuring activations", "");
  const Stopwatch watch;
  state_.importance = passes_.input_moments(state_.partition, next_windows());
  window_seconds_ = 3 * watch.seconds() / static_cast<double>(gradient_windows());  // backward: twice the products
  window_seconds_ = group_.from_first(window_seconds_);
  state_.next_window = 0;
}

double SearchScoring::score_channels(const BitPlan& plan, int bits, int passes, std::vector<ChannelScores>& channels) {
  fit_into_time(passes);
  const Stopwatch watch;
  const double loss = passes_.score_channels(plan, next_windows(), bits, channels);
  window_seconds_ = group_.from_first(watch.seconds() / static_cast<double>(gradient_windows()));
  return loss;
}

double SearchScoring::score(const BitPlan& plan) {
  SensitivityTable table;
  const Stopwatch watch;
  const double loss = passes_.score_blocks(plan, next_windows(), table);
  window_seconds_ = group_.from_first(watch.seconds() / static_cast<double>(gradient_windows()));
  for (std::size_t m = 0; m < matrices_.size(); ++m)
    if (matrices_[m] && is_vocabulary(matrices_[m]->name())) lift_unseen_rows(matrices_[m]->format(), table.scores[m]);
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

double SearchScoring::validation_loss(const BitPlan& plan) {
  const at::Tensor windows = held_out_windows(calibration_, state_);
  return windows.defined() ? passes_.validation_loss(plan, windows) : 0;
}

void SearchScoring::fit_into_time(int passes) {
  const double left = 0.9 * (callbacks_.seconds_left - start_.seconds());
  const double affordable = group_.from_first(std::max(1.0, left / (passes * window_seconds_)));
  if (window_seconds_ <= 0 || affordable >= static_cast<double>(gradient_windows())) return;
  state_.gradient_windows = static_cast<std::int64_t>(affordable);
  journal_.report(
      -1, "time limit",
      fmt::format("windows per gradient: {} instead of {}", state_.gradient_windows, recipe_.windows_per_gradient));
}

bool SearchScoring::has_time_for(double seconds) {
  const double end = group_.from_first(start_.seconds() + seconds);
  return end <= 0.95 * callbacks_.seconds_left;
}

}  // namespace scalebits
