// One matrix at its final widths: a code for every weight, a scale and a zero code for every group. What a rounding
// method decides, in stored order; packing it is one call.
#pragma once

#include "format/matrix_format.h"
#include "format/packed_matrix.h"
#include "format/side_table.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

struct CodedMatrix {
  explicit CodedMatrix(const MatrixFormat& of)
      : format(of), codes(static_cast<std::size_t>(of.rows * of.cols)),
        groups(static_cast<std::size_t>(of.rows * divide_up(of.cols, of.group_cols))) {}

  std::uint8_t* row_codes(std::int64_t row) { return codes.data() + row * format.cols; }
  const std::uint8_t* row_codes(std::int64_t row) const { return codes.data() + row * format.cols; }
  GroupCode group(std::int64_t row, std::int64_t index) const {
    return groups[static_cast<std::size_t>(row * divide_up(format.cols, format.group_cols) + index)];
  }
  GroupCode& group(std::int64_t row, std::int64_t index) {
    return groups[static_cast<std::size_t>(row * divide_up(format.cols, format.group_cols) + index)];
  }

  MatrixFormat format;
  std::vector<std::uint8_t> codes;  // [rows, cols]; below 2^width of their block, anything where it is dropped
  std::vector<GroupCode> groups;    // [rows, groups of a row]
};

/// Writes the packed blob: packed_bytes(matrix.format, widths) bytes.
void pack(const CodedMatrix& matrix, std::span<const std::uint8_t> widths, std::span<std::byte> out);

/// What pack() was given.
CodedMatrix unpack(const PackedMatrix& packed);

}  // namespace scalebits
