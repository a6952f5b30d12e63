// One weight out of the stream that products read: for rows of an embedding on the card, and for products done slowly
// on the CPU.
#pragma once

#include "kernels/cuda/product_args.h"

namespace scalebits::cuda {

/// Stored row `row` of matrix number 0 of the stream, counted from panel `first_panel`; stored column `col`.
SCALEBITS_HD inline float stream_weight(const MatrixView& matrix, std::uint32_t first_panel, std::int64_t row,
                                        std::int64_t col, int part = 0) {
  const auto cell = static_cast<std::uint32_t>(col / kCellCols);
  const std::int64_t at = (first_panel + row / kPanelRows) * matrix.cells + cell;
  const int in_panel = static_cast<int>(row % kPanelRows), tile = in_panel / kStoredTileRows,
            tile_row = in_panel % kStoredTileRows, input = static_cast<int>(col % kCellCols);
  const std::uint32_t widths = matrix.widths[at];
  const int width = cell_width(widths, tile);
  if (width == 0) return 0;
  const auto* const record = reinterpret_cast<const std::uint32_t*>(
      matrix.stream + matrix.panel_bytes[first_panel + row / kPanelRows] + std::uint64_t{matrix.cell_offsets[at]} * 32 +
      bytes_above(widths, tile, matrix.groups));
  const std::uint32_t code = device_code(record, width, matrix.groups, tile_row, input);
  const int half = tile_row / 8;
  const std::uint32_t word = record[8 * (matrix.groups == 2 ? input / 32 : 0) + tile_row % 8];
  const SideValues side = side_values(matrix.side[part], word, width);
  return side.scale[half] * (static_cast<float>(static_cast<int>(code) + code_offset(width, half)) - side.zero[half]);
}

}  // namespace scalebits::cuda
