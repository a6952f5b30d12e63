// A packed blob as it lies in the file (docs/format.md §3), read tile by tile on the CPU or the card. Its one subtle
// rule: it repeats what src/format says, with plain types alone, because code for the card cannot include that room;
// tests/kernels/cuda_layout_test.cpp holds the two together for random formats.
#pragma once

#include "kernels/cuda/host_device.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits::cuda {

inline constexpr int kStoredTileRows = 16;
inline constexpr int kStoredTileCols = 64;

/// MatrixFormat and SideFormat, field by field.
struct StoredShape {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  int block_rows = 64;
  int block_cols = 64;
  int group_cols = 64;
  int scale_bits = 8;
  int zero_bits = 8;
  float scale_base = 1;
  float scale_step_log2 = 0.125f;
  float zero_range = 0.5f;
};

/// One packed matrix in host memory; orders are empty for the identity.
struct StoredMatrix {
  StoredShape shape;
  std::span<const std::uint8_t> widths;  // row-major by (block row, block column)
  std::span<const std::byte> blob;
  std::span<const std::uint32_t> row_order;
  std::span<const std::uint32_t> input_order;
};

/// 16 rows x 64 inputs of the blob. Width 0: nothing is stored.
struct StoredTile {
  std::uint64_t codes = 0;  // bytes from the start of the blob
  std::uint64_t side = 0;   // of the group column that holds the tile's first input; its second one lies behind it
  int width = 0;
};

/// Inputs of a tile that share a scale: one group of 64 or 128, or two of 32.
SCALEBITS_HD inline int tile_groups(const StoredShape& shape) { return shape.group_cols == 32 ? 2 : 1; }
SCALEBITS_HD inline int group_side_bytes(const StoredShape& shape) { return 2 * (shape.scale_bits + shape.zero_bits); }
SCALEBITS_HD inline std::int64_t tile_row_count(const StoredShape& shape) {
  return (shape.rows + kStoredTileRows - 1) / kStoredTileRows;
}
SCALEBITS_HD inline std::int64_t tile_col_count(const StoredShape& shape) {
  return (shape.cols + kStoredTileCols - 1) / kStoredTileCols;
}

/// Bits of plane 0, 1 or 2 of a width, low bits of the code first; 0: there is none.
SCALEBITS_HD constexpr int plane_bits(int width, int plane) {
  const int first = width >= 4 ? 4 : width >= 2 ? 2 : width;
  if (plane == 0) return first;
  const int rest = width - first, second = rest >= 4 ? 4 : rest >= 2 ? 2 : rest;
  return plane == 1 ? second : rest - second;
}

/// The bits that a plane of `bits` bits holds of the code of (row, input); `plane` is its first byte.
SCALEBITS_HD inline std::uint32_t stored_field(const std::uint8_t* plane, int bits, int row, int input) {
  const int fields = 8 / bits, vector = input / (4 * fields), field = input % (4 * fields) / 4, byte = input % 4;
  return static_cast<std::uint32_t>(plane[64 * vector + 4 * row + byte]) >> (bits * field) & ((1u << bits) - 1);
}

/// The whole code, from the first byte of the tile.
SCALEBITS_HD inline std::uint32_t stored_code(const std::uint8_t* tile, int width, int row, int input) {
  std::uint32_t code = 0;
  int low = 0;
  for (int plane = 0; plane < 3 && low < width; ++plane) {
    const int bits = plane_bits(width, plane);
    code |= stored_field(tile + 128 * low, bits, row, input) << low;
    low += bits;
  }
  return code;
}

/// Code `index` of a bit stream of `bits`-bit codes, 0 to 8 bits; 0 where there are no bits.
SCALEBITS_HD inline std::uint32_t stored_side_code(const std::uint8_t* stream, int bits, int index) {
  const int bit = bits * index, shift = bit % 8;
  if (bits == 0) return 0;
  std::uint32_t value = stream[bit / 8];
  if (shift + bits > 8) value |= static_cast<std::uint32_t>(stream[bit / 8 + 1]) << 8;
  return value >> shift & ((1u << bits) - 1);
}

/// Bytes of the blob of such a matrix, and where its tiles are: [tile row, tile column]. `widths` as in StoredMatrix.
struct StoredTiles {
  std::uint64_t blob_bytes = 0;
  std::vector<StoredTile> tiles;
};
StoredTiles find_stored_tiles(const StoredShape& shape, std::span<const std::uint8_t> widths);

}  // namespace scalebits::cuda
