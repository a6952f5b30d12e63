#include "pipeline/one_shot.h"

#include "core/parallel.h"
#include "sensitivity/block_scores.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

namespace scalebits {
namespace {

std::span<const float> importance_of(const std::vector<std::vector<float>>& importance, std::size_t matrix) {
  return importance.empty() ? std::span<const float>() : std::span<const float>(importance[matrix]);
}

/// Original input j of a matrix, or of a stored column of it.
float input_moment(std::span<const float> importance, std::size_t column) {
  return importance.empty() ? 1.0f : importance[column];
}

std::vector<double> range_losses(const RoundedMatrix& matrix, std::span<const float> importance) {
  const MatrixFormat& format = matrix.format();
  const ChannelOrderPtr& order = matrix.partition().col_order;
  std::vector<double> losses(static_cast<std::size_t>(format.block_count()));
  parallel_for(format.block_row_count(), [&](std::int64_t block_row) {
    std::vector<float> row(static_cast<std::size_t>(matrix.padded_cols()));
    for (std::int64_t r = block_row * format.block_rows; r < std::min(format.rows, (block_row + 1) * format.block_rows);
         ++r) {
      matrix.stored_row(r, row);
      for (std::int64_t first = 0; first < format.cols; first += format.group_cols) {
        const std::int64_t last = std::min<std::int64_t>(first + format.group_cols, format.cols);
        const auto [low, high] = std::minmax_element(row.begin() + first, row.begin() + last);
        const double range = static_cast<double>(*high) - *low;
        double moments = 0;
        for (std::int64_t col = first; col < last; ++col)
          moments += input_moment(importance,
                                  order ? order->order[static_cast<std::size_t>(col)] : static_cast<std::size_t>(col));
        losses[static_cast<std::size_t>(format.block_index(block_row, first / format.block_cols))] +=
            range * range / 12 * moments;
      }
    }
  });
  return losses;
}

/// Σ H_jj (w − Q(w, bits))² over a whole matrix.
double weighted_error(const RoundedMatrix& matrix, std::span<const float> importance, int bits) {
  const MatrixFormat& format = matrix.format();
  const auto cols = static_cast<std::size_t>(format.cols);
  std::vector<float> roots(static_cast<std::size_t>(format.rows) * cols);
  for (std::size_t i = 0; i < roots.size(); ++i) roots[i] = std::sqrt(input_moment(importance, i % cols));
  double sum = 0;
  for (const WidthScores& scores : score_blocks(matrix, roots.data(), Statistic::fisher))
    sum += scores[static_cast<std::size_t>(bits)];
  return sum;
}

}  // namespace

std::vector<std::vector<double>> baq_losses(const RoundedMatrices& matrices,
                                            const std::vector<std::vector<float>>& importance,
                                            const SensitivityTable* scores, int bits) {
  std::vector<std::vector<double>> losses(matrices.size());
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (!matrices[m]) continue;
    losses[m] = range_losses(*matrices[m], importance_of(importance, m));
    if (scores == nullptr) continue;
    double score = 0;
    for (const WidthScores& block : scores->scores[m]) score += block[static_cast<std::size_t>(bits)];
    const double error = weighted_error(*matrices[m], importance_of(importance, m), bits);
    for (double& loss : losses[m]) loss *= error > 0 ? score / error : 0;
  }
  return losses;
}

std::vector<std::vector<double>> saliences(const RoundedMatrices& matrices, const SensitivityTable& scores, int bits) {
  std::vector<std::vector<double>> result(matrices.size());
  for (std::size_t m = 0; m < matrices.size(); ++m) {
    if (!matrices[m]) continue;
    const MatrixFormat& format = matrices[m]->format();
    for (std::int64_t row = 0; row < format.block_row_count(); ++row)
      for (std::int64_t col = 0; col < format.block_col_count(); ++col)
        result[m].push_back(
            scores.scores[m][static_cast<std::size_t>(format.block_index(row, col))][static_cast<std::size_t>(bits)] /
            static_cast<double>(format.block_weights(row, col)));
  }
  return result;
}

}  // namespace scalebits
