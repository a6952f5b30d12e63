#include "kernels/weights.h"

#include "core/error.h"

#include <algorithm>

namespace scalebits {

SideStream::SideStream(int bit_count) : bits(bit_count) {
  for (int i = 0; i < kTileRows; ++i) {
    const int bit = i * bits, byte = bit / 8;
    const bool crosses = bit % 8 + bits > 8;
    const std::uint8_t lane[4] = {static_cast<std::uint8_t>(byte), static_cast<std::uint8_t>(crosses ? byte + 1 : 0x80),
                                  0x80, 0x80};
    std::copy_n(lane, 4, bytes + 4 * i);
    shifts[i] = static_cast<std::uint32_t>(bit % 8);
    masks[i] = (1u << bits) - 1;
  }
}

PackedWeights::PackedWeights(PackedMatrix matrix, std::span<const std::uint32_t> row_order,
                             std::span<const std::uint32_t> input_order)
    : matrix_(std::move(matrix)), side_(matrix_.format().side), scale_stream_(matrix_.format().side.scale_bits),
      zero_stream_(matrix_.format().side.zero_bits), row_order_(row_order), input_order_(input_order) {
  const MatrixFormat& shape = format();
  SCALEBITS_ASSERT(row_order.empty() || row_order.size() == static_cast<std::size_t>(shape.rows));
  SCALEBITS_ASSERT(input_order.empty() || input_order.size() == static_cast<std::size_t>(shape.cols));
  const std::span<const std::uint8_t> widths = matrix_.widths();
  const std::int64_t stripe_blocks = shape.stripe_rows() / shape.block_rows,
                     block_strips = shape.block_rows / kTileRows, block_cols = shape.block_col_count();
  strip_widths_.assign(static_cast<std::size_t>(first_strip(shape.stripe_count())), kNoWidth);
  bytes_before_.assign(1, 0);
  for (std::int64_t row = 0; row < shape.block_row_count(); ++row) {
    const std::int64_t stripe = row / stripe_blocks;
    const std::int64_t stripe_strips = shape.stripe_tile_rows(stripe), block_strip = row % stripe_blocks * block_strips,
                       strips = std::min(block_strips, stripe_strips - block_strip);
    std::uint64_t strip_bytes = 0;  // of each of the block row's tile rows
    for (std::int64_t col = 0; col < block_cols; ++col) {
      const int width = widths[static_cast<std::size_t>(shape.block_index(row, col))];
      std::fill_n(strip_widths_.begin() + first_strip(stripe) + col * stripe_strips + block_strip, strips,
                  static_cast<std::uint8_t>(width));
      if (width == 0) continue;
      strip_bytes += static_cast<std::uint64_t>(shape.strip_tiles(col)) * tile_bytes(width) +
                     static_cast<std::uint64_t>(shape.strip_groups(col) * shape.group_side_bytes());
    }
    const std::int64_t first = row * shape.block_rows / kTileRows,
                       last = std::min((row + 1) * shape.block_rows / kTileRows, shape.tile_row_count());
    for (std::int64_t tile_row = first; tile_row < last; ++tile_row)
      bytes_before_.push_back(bytes_before_.back() + strip_bytes);
  }
}

}  // namespace scalebits
