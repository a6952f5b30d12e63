#include "kernels/cuda/stored_tiles.h"

#include <algorithm>

namespace scalebits::cuda {
namespace {

std::uint64_t align_up_64(std::uint64_t bytes) { return (bytes + 63) / 64 * 64; }
std::int64_t divide_rounding_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

}  // namespace

StoredTiles find_stored_tiles(const StoredShape& shape, std::span<const std::uint8_t> widths) {
  const std::int64_t tile_cols = tile_col_count(shape), tile_rows = tile_row_count(shape);
  const std::int64_t block_cols = divide_rounding_up(shape.cols, shape.block_cols),
                     block_rows = divide_rounding_up(shape.rows, shape.block_rows);
  const std::int64_t stripe_tile_rows = std::max(64, shape.block_rows) / kStoredTileRows;
  const int block_tiles = shape.block_cols / kStoredTileCols;
  StoredTiles found;
  found.tiles.resize(static_cast<std::size_t>(tile_rows * tile_cols));
  found.blob_bytes = align_up_64(static_cast<std::uint64_t>(divide_rounding_up(block_rows * block_cols, 2)));
  for (std::int64_t first = 0; first < tile_rows; first += stripe_tile_rows) {
    const std::int64_t last = std::min(first + stripe_tile_rows, tile_rows);
    std::uint64_t side = 0, codes = 0;  // from the start of their section
    for (std::int64_t block_col = 0; block_col < block_cols; ++block_col) {
      const int tiles = static_cast<int>(std::min<std::int64_t>(block_tiles, tile_cols - block_col * block_tiles));
      const auto groups = static_cast<std::uint64_t>(divide_rounding_up(tiles * kStoredTileCols, shape.group_cols));
      for (std::int64_t row = first; row < last; ++row) {
        const int width =
            widths[static_cast<std::size_t>(row * kStoredTileRows / shape.block_rows * block_cols + block_col)];
        if (width == 0) continue;
        for (int t = 0; t < tiles; ++t) {
          const auto group = static_cast<std::uint64_t>(t * kStoredTileCols / shape.group_cols);
          found.tiles[static_cast<std::size_t>(row * tile_cols + block_col * block_tiles + t)] = {
              .codes = codes,
              .side = side + group * static_cast<std::uint64_t>(group_side_bytes(shape)),
              .width = width};
          codes += static_cast<std::uint64_t>(128 * width);
        }
        side += groups * static_cast<std::uint64_t>(group_side_bytes(shape));
      }
    }
    side = align_up_64(side);
    for (std::int64_t i = first * tile_cols; i < last * tile_cols; ++i) {
      StoredTile& tile = found.tiles[static_cast<std::size_t>(i)];
      tile.side += found.blob_bytes;
      tile.codes += found.blob_bytes + side;
    }
    found.blob_bytes += side + codes;
  }
  return found;
}

}  // namespace scalebits::cuda
