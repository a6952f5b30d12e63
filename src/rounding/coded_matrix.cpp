#include "rounding/coded_matrix.h"

#include "format/packed_matrix.h"

#include <algorithm>

namespace scalebits {

void pack(const CodedMatrix& matrix, std::span<const std::uint8_t> widths, std::span<std::byte> out) {
  const MatrixFormat& format = matrix.format;
  const std::int64_t groups_per_row = divide_up(format.cols, format.group_cols);
  const auto fill_strip = [&](std::int64_t tile_row, std::int64_t block_col, int, Strip& strip) {
    const std::int64_t first_col = block_col * format.block_cols, first_group = first_col / format.group_cols;
    const std::int64_t cols = std::min<std::int64_t>(format.block_cols, format.cols - first_col);
    const std::int64_t rows = std::min<std::int64_t>(kTileRows, format.rows - tile_row * kTileRows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t row = tile_row * kTileRows + r;
      std::copy_n(matrix.codes.begin() + row * format.cols + first_col, cols,
                  strip.codes[static_cast<std::size_t>(r)].begin());
      for (std::int64_t g = 0; g < divide_up(cols, format.group_cols); ++g) {
        const GroupCode code = matrix.groups[static_cast<std::size_t>(row * groups_per_row + first_group + g)];
        strip.scale_codes[static_cast<std::size_t>(g)][static_cast<std::size_t>(r)] = code.scale;
        strip.zero_codes[static_cast<std::size_t>(g)][static_cast<std::size_t>(r)] = code.zero;
      }
    }
  };
  pack_matrix(format, widths, fill_strip, out);
}

}  // namespace scalebits
