// A matrix of the search in tensor operations, on any device: rounding it at a plan's widths, and scoring its blocks or
// channels from a gradient. Values are those of RoundedMatrix and block_scores.h, sums up to their order; only sums
// over blocks, rows and columns come back to the host. Works in pieces of rows, so that beside what is handed in and
// out nothing takes more than kDeviceMatrixBytes.
#pragma once

#include "partition/partition.h"
#include "rounding/rounded_matrix.h"
#include "sensitivity/sensitivity_table.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

/// What the temporaries of one method take at most; they hold a piece of rows in f32 some ten times.
inline constexpr std::uint64_t kDeviceMatrixBytes = std::uint64_t{512} << 20;

/// Holds the tables that turn codes into scales and zeros; made for the duration of one use. Codes are sent as they are
/// needed: one of a group for rounding, all eight widths' for scoring.
class DeviceMatrix {
 public:
  /// Keeps a reference to `matrix`.
  DeviceMatrix(const RoundedMatrix& matrix, at::Device device);

  /// `weight` [rows, cols] as stored in the checkpoint, f32, f16 or bf16, on the device → out [rows, cols] f32 or bf16,
  /// rounded at `widths`, both in original order.
  void dequantize(const at::Tensor& weight, std::span<const std::uint8_t> widths, const at::Tensor& out) const;
  /// The same for the original rows `rows` alone: weights and out [rows.size(), cols]; out may be weights.
  void dequantize_rows(const at::Tensor& weights, std::span<const std::int64_t> rows,
                       std::span<const std::uint8_t> widths, const at::Tensor& out) const;
  /// `gradient` [rows, cols] f32 in original order; as block_scores.h has it.
  std::vector<WidthScores> score_blocks(const at::Tensor& weight, const at::Tensor& gradient,
                                        Statistic statistic) const;
  ChannelScores score_channels(const at::Tensor& weight, const at::Tensor& gradient, Statistic statistic,
                               int bits) const;

 private:
  /// What groups round to, each [rows, groups, 1] f32; a dropped one to 0.
  struct Grid {
    at::Tensor scale, inverse, zero, top_code;
  };
  /// Rows of a matrix in stored order, [n, groups, group_cols] f32, zeros behind the last column.
  struct StoredRows {
    at::Tensor weights, gradient;
  };
  Grid grid(const at::Tensor& widths, const at::Tensor& codes) const;
  static at::Tensor rounded(const at::Tensor& weights, const Grid& grid);
  at::Tensor term(const StoredRows& rows, Statistic statistic, int bits, const at::Tensor& codes) const;
  at::Tensor chosen_codes(std::span<const std::int64_t> stored_rows, std::span<const std::uint8_t> widths) const;
  at::Tensor codes_of(int bits, std::int64_t first, std::int64_t count) const;
  at::Tensor in_groups(const at::Tensor& rows) const;
  StoredRows stored_rows(const at::Tensor& weight, const at::Tensor& gradient, std::int64_t first,
                         std::int64_t count) const;
  std::int64_t rows_of_a_piece() const;

  const RoundedMatrix& matrix_;
  at::Device device_;
  at::Tensor scales_, inverses_, zeros_, top_codes_;      // [9 * 256] and [9]: by width and code
  at::Tensor col_order_, inverse_col_order_, row_order_;  // int64; undefined: as they are
  std::vector<std::int64_t> stored_row_of_;               // by original row; empty: the same
};

}  // namespace scalebits
