#include "refine/baq_columns.h"

#include "core/error.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>
#include <cmath>

namespace scalebits {
namespace {

constexpr std::int64_t kBatchCols = 128;  // whose effect on the columns behind them is taken in one product

/// Bits of these codes [rows] at the frequencies that they have.
double entropy_of(const at::Tensor& codes, int levels) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(levels));
  const auto* code = codes.const_data_ptr<float>();
  for (std::int64_t i = 0; i < codes.numel(); ++i) ++counts[static_cast<std::size_t>(code[i])];
  double bits = 0;
  for (const std::int64_t count : counts)
    if (count > 0)
      bits -= static_cast<double>(count) * std::log2(static_cast<double>(count) / static_cast<double>(codes.numel()));
  return bits;
}

}  // namespace

ColumnRounding round_columns(const at::Tensor& weights, const at::Tensor& factor, std::span<const int> levels) {
  const at::NoGradGuard no_grad;
  const std::int64_t rows = weights.size(0), cols = weights.size(1);
  SCALEBITS_ASSERT(static_cast<std::int64_t>(levels.size()) == cols && factor.size(0) == cols);
  ColumnRounding result{.weights = at::empty_like(weights), .losses = std::vector<double>(levels.size())};
  const at::Tensor low = std::get<0>(weights.min(1)).clamp_max(0), high = std::get<0>(weights.max(1)).clamp_min(0);
  at::Tensor left = weights.clone();
  for (std::int64_t first = 0; first < cols; first += kBatchCols) {
    const std::int64_t end = std::min(cols, first + kBatchCols);
    at::Tensor errors = at::zeros({rows, end - first}, at::kFloat);
    for (std::int64_t j = first; j < end; ++j) {
      const int count = levels[static_cast<std::size_t>(j)];
      const at::Tensor column = left.select(1, j);
      at::Tensor value = at::zeros_like(column);
      if (count > 1) {
        const at::Tensor scale = ((high - low) / (count - 1)).clamp_min(1e-30);
        const at::Tensor zero = (-low / scale).round();
        const at::Tensor code = (column / scale + zero).round().clamp(0, count - 1).contiguous();
        value = (code - zero) * scale;
        result.entropy_bits += entropy_of(code, count);
        result.field_bits += static_cast<double>(rows) * std::bit_width(static_cast<unsigned>(count - 1));
      }
      const double pivot = factor[j][j].item<double>();
      const at::Tensor error = (column - value) / pivot;
      result.losses[static_cast<std::size_t>(j)] = 0.5 * error.square().sum().item<double>();
      result.weights.select(1, j).copy_(value);
      errors.select(1, j - first).copy_(error);
      if (j + 1 < end)
        left.narrow(1, j + 1, end - j - 1).addr_(error, factor.select(0, j).narrow(0, j + 1, end - j - 1), 1, -1);
    }
    if (end < cols)
      left.narrow(1, end, cols - end)
          .addmm_(errors, factor.narrow(0, first, end - first).narrow(1, end, cols - end), 1, -1);
  }
  result.side_bits = 32.0 * static_cast<double>(rows) + 8.0 * static_cast<double>(cols);
  return result;
}

std::vector<int> baq_levels(std::span<const double> losses, double bits, double theta) {
  double log_sum = 0;
  int positive = 0;
  for (const double loss : losses) {
    if (!(loss >= 0) || !std::isfinite(loss)) fail_input("BAQ: a column's loss is {}", loss);
    if (loss > 0) {
      log_sum += std::log(loss);
      ++positive;
    }
  }
  const double mean_log = positive > 0 ? log_sum / positive : 0;
  std::vector<int> levels;
  for (const double loss : losses) {
    const double count = loss > 0 ? std::exp((std::log(loss) - mean_log + theta * bits * std::log(2.0)) / theta) : 1.0;
    levels.push_back(static_cast<int>(std::round(std::clamp(count, 1.0, 256.0))));
  }
  return levels;
}

}  // namespace scalebits
