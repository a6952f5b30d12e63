#include "sensitivity/device_matrix.h"

#include "core/error.h"
#include "core/parallel.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace scalebits {
namespace {

constexpr std::int64_t kPieceWeights = std::int64_t{1} << 22;
constexpr std::int64_t kCodes = 256;

at::Tensor sent(const std::vector<float>& values, at::Device device) {
  return at::tensor(values, at::kFloat).to(device);
}

/// An order as indices on the device; undefined for the identity.
at::Tensor indices_of(const ChannelOrderPtr& order, at::Device device) {
  if (!order) return {};
  return at::tensor(std::vector<std::int64_t>(order->order.begin(), order->order.end()), at::kLong).to(device);
}

at::Tensor reordered(const at::Tensor& tensor, std::int64_t dimension, const at::Tensor& order) {
  return order.defined() ? tensor.index_select(dimension, order) : tensor;
}

}  // namespace

DeviceMatrix::DeviceMatrix(const RoundedMatrix& matrix, at::Device device) : matrix_(matrix), device_(device) {
  std::vector<float> scales, inverses, zeros, top_codes;
  for (std::size_t width = 0; width <= 8; ++width) {
    top_codes.push_back(static_cast<float>((1 << width) - 1));
    for (std::size_t code = 0; code < kCodes; ++code) {
      const float scale = matrix.side().scales[width][code];
      scales.push_back(scale);
      inverses.push_back(scale == 0 ? 1.0f : 1.0f / scale);  // scale 0: a width of 0, or no code
      zeros.push_back(matrix.side().zeros[width][code]);
    }
  }
  scales_ = sent(scales, device);
  inverses_ = sent(inverses, device);
  zeros_ = sent(zeros, device);
  top_codes_ = sent(top_codes, device);
  const MatrixPartition& partition = matrix.partition();
  col_order_ = indices_of(partition.col_order, device);
  if (col_order_.defined()) inverse_col_order_ = col_order_.argsort();
  row_order_ = indices_of(partition.row_order, device);
  if (!partition.row_order) return;
  stored_row_of_.resize(static_cast<std::size_t>(partition.rows));
  for (std::size_t stored = 0; stored < stored_row_of_.size(); ++stored)
    stored_row_of_[partition.row_order->order[stored]] = static_cast<std::int64_t>(stored);
}

std::int64_t DeviceMatrix::rows_of_a_piece() const {
  const std::int64_t block_rows = matrix_.format().block_rows;
  return std::max<std::int64_t>(1, kPieceWeights / (matrix_.padded_cols() * block_rows)) * block_rows;
}

/// widths [rows, groups] and codes [rows, groups, 2], both int64.
DeviceMatrix::Grid DeviceMatrix::grid(const at::Tensor& widths, const at::Tensor& codes) const {
  const at::Tensor first = widths * kCodes;
  const auto look_up = [&](const at::Tensor& table, const at::Tensor& index) {
    return table.index_select(0, index.flatten()).view({widths.size(0), widths.size(1), 1});
  };
  const at::Tensor scale_index = first + codes.select(2, 0), zero_index = first + codes.select(2, 1);
  return {look_up(scales_, scale_index), look_up(inverses_, scale_index), look_up(zeros_, zero_index),
          look_up(top_codes_, widths)};
}

/// The host's operations one by one, each rounded by itself, so that the values are the same to the bit.
at::Tensor DeviceMatrix::rounded(const at::Tensor& weights, const Grid& grid) {
  const at::Tensor codes = weights.mul(grid.inverse).add_(grid.zero).clamp_min_(0);
  return at::minimum(codes, grid.top_code).round_().sub_(grid.zero).mul_(grid.scale);
}

/// [n, groups, group_cols].
at::Tensor DeviceMatrix::in_groups(const at::Tensor& rows) const {
  const std::int64_t behind = matrix_.padded_cols() - matrix_.format().cols;
  const at::Tensor padded = behind > 0 ? at::constant_pad_nd(rows, {0, behind}) : rows;
  return padded.view({rows.size(0), matrix_.groups_per_row(), matrix_.format().group_cols});
}

/// [rows, groups, 3] on the device: width, scale code and zero code of each group.
at::Tensor DeviceMatrix::chosen_codes(std::span<const std::int64_t> stored_rows,
                                      std::span<const std::uint8_t> widths) const {
  const std::int64_t groups = matrix_.groups_per_row();
  const at::Tensor chosen = at::empty({static_cast<std::int64_t>(stored_rows.size()), groups, 3}, at::kByte);
  parallel_for(chosen.size(0), [&](std::int64_t i) {
    auto* to = chosen.data_ptr<std::uint8_t>() + i * groups * 3;
    const std::int64_t row = stored_rows[static_cast<std::size_t>(i)];
    for (std::int64_t group = 0; group < groups; ++group) {
      const int bits = matrix_.width_of(widths, row, group);
      const GroupCode code = bits == 0 ? GroupCode{} : matrix_.code(bits, row, group);
      *to++ = static_cast<std::uint8_t>(bits);
      *to++ = code.scale;
      *to++ = code.zero;
    }
  });
  return chosen.to(device_).to(at::kLong);
}

/// [count, groups, 2] int64 on the device, of one width; of width 0 there are none, and any do.
at::Tensor DeviceMatrix::codes_of(int bits, std::int64_t first, std::int64_t count) const {
  static_assert(sizeof(GroupCode) == 2);
  const std::int64_t groups = matrix_.groups_per_row();
  const auto codes = matrix_.codes(std::max(bits, 1));
  void* data = const_cast<GroupCode*>(codes.data() + first * groups);  // only read
  return at::from_blob(data, {count, groups, 2}, at::kByte).to(device_).to(at::kLong);
}

void DeviceMatrix::dequantize_rows(const at::Tensor& weights, std::span<const std::int64_t> rows,
                                   std::span<const std::uint8_t> widths, const at::Tensor& out) const {
  SCALEBITS_ASSERT(static_cast<std::int64_t>(widths.size()) == matrix_.format().block_count());
  const auto count = static_cast<std::int64_t>(rows.size()), step = rows_of_a_piece();
  for (std::int64_t first = 0; first < count; first += step) {
    const std::int64_t some = std::min(step, count - first);
    const auto originals = rows.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(some));
    std::vector<std::int64_t> stored(originals.begin(), originals.end());
    if (!stored_row_of_.empty())
      for (std::int64_t& row : stored) row = stored_row_of_[static_cast<std::size_t>(row)];
    const at::Tensor codes = chosen_codes(stored, widths);
    const at::Tensor values = in_groups(reordered(weights.narrow(0, first, some).to(at::kFloat), 1, col_order_));
    const at::Tensor flat = rounded(values, grid(codes.select(2, 0), codes.narrow(2, 1, 2)))
                                .view({some, matrix_.padded_cols()})
                                .narrow(1, 0, matrix_.format().cols);
    out.narrow(0, first, some).copy_(reordered(flat, 1, inverse_col_order_));
  }
}

void DeviceMatrix::dequantize(const at::Tensor& weight, std::span<const std::uint8_t> widths,
                              const at::Tensor& out) const {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(matrix_.format().rows));
  std::iota(rows.begin(), rows.end(), 0);
  dequantize_rows(weight, rows, widths, out);
}

DeviceMatrix::StoredRows DeviceMatrix::stored_rows(const at::Tensor& weight, const at::Tensor& gradient,
                                                   std::int64_t first, std::int64_t count) const {
  const auto rows_of = [&](const at::Tensor& matrix) {
    const at::Tensor rows = row_order_.defined() ? matrix.index_select(0, row_order_.narrow(0, first, count))
                                                 : matrix.narrow(0, first, count);
    return in_groups(reordered(rows.to(at::kFloat), 1, col_order_));
  };
  return {rows_of(weight), rows_of(gradient)};
}

/// The statistic's term of each weight (sensitivity_table.h) at width `bits`.
at::Tensor DeviceMatrix::term(const StoredRows& rows, Statistic statistic, int bits, const at::Tensor& codes) const {
  if (statistic == Statistic::gradient) return rows.gradient.square();
  const at::Tensor widths = at::full_like(codes.select(2, 0), bits);
  at::Tensor error = rows.weights - rounded(rows.weights, grid(widths, codes));
  if (statistic == Statistic::weight_error) return error.square_();
  error.mul_(rows.gradient);
  if (statistic == Statistic::absolute) error.abs_();
  if (statistic == Statistic::fisher) error.square_();
  return error;
}

std::vector<WidthScores> DeviceMatrix::score_blocks(const at::Tensor& weight, const at::Tensor& gradient,
                                                    Statistic statistic) const {
  const MatrixFormat& format = matrix_.format();
  const std::int64_t block_cols = format.block_col_count(), groups_per_block = format.block_cols / format.group_cols;
  const std::int64_t missing_groups = block_cols * groups_per_block - matrix_.groups_per_row();
  std::vector<WidthScores> scores(static_cast<std::size_t>(format.block_count()));
  for (std::int64_t first = 0; first < format.rows; first += rows_of_a_piece()) {
    const std::int64_t count = std::min(rows_of_a_piece(), format.rows - first);
    const std::int64_t block_rows = divide_up(count, format.block_rows);
    const StoredRows rows = stored_rows(weight, gradient, first, count);
    std::vector<at::Tensor> of_widths;
    for (int bits = 0; bits <= 8; ++bits) {
      const at::Tensor of_groups = term(rows, statistic, bits, codes_of(bits, first, count)).sum(-1);
      const at::Tensor whole =
          at::constant_pad_nd(of_groups, {0, missing_groups, 0, block_rows * format.block_rows - count});
      at::Tensor sums =
          whole.view({block_rows, format.block_rows, block_cols, groups_per_block}).sum(at::IntArrayRef{1, 3});
      if (statistic == Statistic::signed_sum) sums.abs_();
      if (statistic == Statistic::gradient) sums.mul_(std::ldexp(1.0, -2 * bits));
      of_widths.push_back(sums);
    }
    const at::Tensor sums = at::stack(of_widths, -1).to(at::kCPU).contiguous();  // [block rows, block cols, 9]
    const auto* from = sums.const_data_ptr<float>();
    const auto begin = scores.begin() + format.block_index(first / format.block_rows, 0);
    for (auto block = begin; block != begin + block_rows * block_cols; ++block)
      for (float& score : *block) score = *from++;
  }
  return scores;
}

ChannelScores DeviceMatrix::score_channels(const at::Tensor& weight, const at::Tensor& gradient, Statistic statistic,
                                           int bits) const {
  const MatrixFormat& format = matrix_.format();
  const MatrixPartition& partition = matrix_.partition();
  const at::Tensor row_sums = at::empty({format.rows}, weight.options().dtype(at::kFloat));
  const at::Tensor col_sums = at::zeros({matrix_.padded_cols()}, weight.options().dtype(at::kDouble));
  for (std::int64_t first = 0; first < format.rows; first += rows_of_a_piece()) {
    const std::int64_t count = std::min(rows_of_a_piece(), format.rows - first);
    const at::Tensor terms =
        term(stored_rows(weight, gradient, first, count), statistic, bits, codes_of(bits, first, count))
            .view({count, matrix_.padded_cols()});
    row_sums.narrow(0, first, count).copy_(terms.sum(1));
    col_sums.add_(terms.sum(0));
  }
  const auto to_original = [&](const at::Tensor& sums, std::int64_t count, const ChannelOrderPtr& order) {
    std::vector<double> values(static_cast<std::size_t>(count));
    const at::Tensor stored = sums.to(at::kDouble).to(at::kCPU);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double sum = stored.const_data_ptr<double>()[i];
      values[order ? order->order[i] : i] = statistic == Statistic::signed_sum ? std::abs(sum) : sum;
    }
    return values;
  };
  return {to_original(row_sums, format.rows, partition.row_order),
          to_original(col_sums, format.cols, partition.col_order)};
}

}  // namespace scalebits
