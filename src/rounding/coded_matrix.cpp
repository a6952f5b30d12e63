#include "rounding/coded_matrix.h"

#include "core/parallel.h"
#include "format/packed_matrix.h"

#include <algorithm>

namespace scalebits {

namespace {

/// Calls visit(row, first column, columns, row of the strip) for each row of a strip that the matrix has.
template <typename Visit>
void each_strip_row(const MatrixFormat& format, std::int64_t tile_row, std::int64_t block_col, const Visit& visit) {
  const std::int64_t first_col = block_col * format.block_cols;
  const std::int64_t cols = std::min<std::int64_t>(format.block_cols, format.cols - first_col);
  const std::int64_t rows = std::min<std::int64_t>(kTileRows, format.rows - tile_row * kTileRows);
  for (std::int64_t r = 0; r < rows; ++r) visit(tile_row * kTileRows + r, first_col, cols, static_cast<std::size_t>(r));
}

}  // namespace

void pack(const CodedMatrix& matrix, std::span<const std::uint8_t> widths, std::span<std::byte> out) {
  const MatrixFormat& format = matrix.format;
  pack_matrix(
      format, widths,
      [&](std::int64_t tile_row, std::int64_t block_col, int, Strip& strip) {
        each_strip_row(format, tile_row, block_col,
                       [&](std::int64_t row, std::int64_t first_col, std::int64_t cols, std::size_t r) {
                         std::copy_n(matrix.row_codes(row) + first_col, cols, strip.codes[r].begin());
                         for (std::int64_t g = 0; g * format.group_cols < cols; ++g) {
                           const GroupCode code = matrix.group(row, first_col / format.group_cols + g);
                           strip.scale_codes[static_cast<std::size_t>(g)][r] = code.scale;
                           strip.zero_codes[static_cast<std::size_t>(g)][r] = code.zero;
                         }
                       });
      },
      out);
}

CodedMatrix unpack(const PackedMatrix& packed) {
  const MatrixFormat& format = packed.format();
  CodedMatrix matrix(format);
  parallel_for(format.tile_row_count(), [&](std::int64_t tile_row) {
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
      Strip strip;
      packed.decode_strip(tile_row, block_col, strip);
      each_strip_row(
          format, tile_row, block_col, [&](std::int64_t row, std::int64_t first_col, std::int64_t cols, std::size_t r) {
            std::copy_n(strip.codes[r].begin(), cols, matrix.row_codes(row) + first_col);
            for (std::int64_t g = 0; g * format.group_cols < cols; ++g)
              matrix.group(row, first_col / format.group_cols + g) = {strip.scale_codes[static_cast<std::size_t>(g)][r],
                                                                      strip.zero_codes[static_cast<std::size_t>(g)][r]};
          });
    }
  });
  return matrix;
}

}  // namespace scalebits
