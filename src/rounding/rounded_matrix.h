// One matrix as the search sees it: its weights as loaded, the order it is stored in, and for every group and every
// width the codes that the clip search chose. Rounding a weight with known codes is a few operations, so rounded
// weights are never kept: a quarter of a byte per weight holds all eight widths, and the clip search runs once.
#pragma once

#include "format/matrix_format.h"
#include "format/side_table.h"
#include "model/checkpoint.h"
#include "partition/partition.h"
#include "rounding/coded_matrix.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

struct BlockShape {
  int rows = 16, cols = 64;
};

/// A set of widths, bit b for width b. Width 0 needs no codes.
inline constexpr unsigned kAllWidths = 0x1fe;

/// How groups are coded, before the ranges of a matrix are known.
struct GroupOptions {
  int group_cols = 64;
  int scale_bits = 6;
  int zero_bits = 4;
  float zero_range = 0.25f;           // the zero point may lie this part of 2^bits off the centre
  float octaves = 7.875f;             // ratio of the largest to the smallest range, log2
  bool clip_search = true;            // false: each group's whole range
  unsigned code_widths = kAllWidths;  // that this matrix may be rounded to; 0: the format alone
};

/// How a matrix of these extents is stored, but for its scales' base and step.
MatrixFormat stored_format(std::int64_t rows, std::int64_t cols, const BlockShape& blocks, const GroupOptions& groups);

class RoundedMatrix {
 public:
  /// `importance`: weight of each original input channel in the clip search's squared error; empty means all alike.
  RoundedMatrix(HostTensor weight, const MatrixPartition& partition, const BlockShape& blocks,
                const GroupOptions& groups, std::span<const float> importance);

  const std::string& name() const { return partition_.name; }
  const MatrixPartition& partition() const { return partition_; }
  const MatrixFormat& format() const { return format_; }
  const SideTable& side() const { return side_; }
  std::int64_t groups_per_row() const { return groups_per_row_; }
  /// Columns of a row buffer: cols rounded up to whole groups.
  std::int64_t padded_cols() const { return groups_per_row_ * format_.group_cols; }

  /// Row `row` of the stored order, columns in stored order, zeros behind; out has padded_cols() values.
  void stored_row(std::int64_t row, std::span<float> out) const;
  /// The same order applied to row `row` of another [rows, cols] matrix in original order (a gradient).
  void stored_row_of(const float* original, std::int64_t row, std::span<float> out) const;
  GroupCode code(int bits, std::int64_t row, std::int64_t group) const {
    return codes_[static_cast<std::size_t>(bits - 1)][static_cast<std::size_t>(row * groups_per_row_ + group)];
  }

  /// Of any width.
  bool has_codes() const {
    return std::ranges::any_of(codes_, [](const auto& codes) { return !codes.empty(); });
  }
  /// All codes of one width, [rows, groups of a row] in stored order.
  std::span<const GroupCode> codes(int bits) const { return codes_[static_cast<std::size_t>(bits - 1)]; }
  /// All codes of widths 1 to 8, [rows, groups of a row] each or empty: for who hands them to another process.
  std::array<std::span<GroupCode>, 8> codes();

  /// The rounded matrix at these widths (one per block, row-major over blocks), [rows, cols] in ORIGINAL order.
  void dequantize(std::span<const std::uint8_t> widths, float* out) const;
  /// The same as codes.
  CodedMatrix nearest(std::span<const std::uint8_t> widths) const;
  /// Writes their packed blob: packed_bytes(format(), widths) bytes.
  void pack(std::span<const std::uint8_t> widths, std::span<std::byte> out) const {
    scalebits::pack(nearest(widths), widths, out);
  }
  /// Puts the values of stored row `row`, columns in stored order, to their places in `original` [rows, cols].
  void to_original_row(std::int64_t row, std::span<const float> values, float* original) const;
  int width_of(std::span<const std::uint8_t> widths, std::int64_t row, std::int64_t group) const {
    return widths[static_cast<std::size_t>(
        format_.block_index(row / format_.block_rows, group * format_.group_cols / format_.block_cols))];
  }

 private:
  HostTensor weight_;
  MatrixPartition partition_;
  MatrixFormat format_;
  SideTable side_;
  std::int64_t groups_per_row_ = 0;
  std::array<std::vector<GroupCode>, 8> codes_;
};

/// One per matrix of the partition; null where the matrix stays as it is.
using RoundedMatrices = std::vector<std::unique_ptr<RoundedMatrix>>;

}  // namespace scalebits
