// How one matrix is cut for storage, and the one truth about its bytes. Nested units, smallest first:
//   tile    16 rows x 64 inputs, one width (tile_codec.h)
//   group   group_cols inputs of one row: one scale code, one zero code (side_format.h)
//   block   block_rows x block_cols: the unit of width; a 4-bit tag
//   strip   16 rows x block_cols of one block: its tiles are stored together, left to right, and so are its groups
//   stripe  max(64, block_rows) rows over all inputs: [side section, padded to 64][codes]; both walk block column by
//           block column, then strip by strip from top to bottom
// Blob of a matrix: [tags, padded to 64][stripe 0][stripe 1]… Nothing is padded to whole blocks: the last stripe holds
// only the strips that have rows, the last block column only the tiles that have inputs; within a tile, rows and inputs
// beyond the matrix hold code 0, scale code 0, zero code 0 and are ignored. All sizes are multiples of 64 bytes.
#pragma once

#include "core/json.h"
#include "format/side_format.h"
#include "format/tile_codec.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

namespace scalebits {

inline constexpr int kMaxBlockRows = 128;
inline constexpr int kMaxBlockCols = 128;
inline constexpr std::uint64_t kAlignment = 64;

constexpr std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }
constexpr std::uint64_t align_up(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

struct MatrixFormat {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  int block_rows = 64;  // 16, 32, 64 or 128
  int block_cols = 64;  // 64 or 128, a multiple of group_cols
  int group_cols = 64;  // 32, 64 or 128
  SideFormat side;

  bool operator==(const MatrixFormat&) const = default;

  // Blocks: widths are row-major over [block_row_count, block_col_count].
  std::int64_t block_row_count() const { return divide_up(rows, block_rows); }
  std::int64_t block_col_count() const { return divide_up(cols, block_cols); }
  std::int64_t block_count() const { return block_row_count() * block_col_count(); }
  std::int64_t block_index(std::int64_t block_row, std::int64_t block_col) const {
    return block_row * block_col_count() + block_col;
  }
  /// Weights inside the matrix that belong to the block.
  std::int64_t block_weights(std::int64_t block_row, std::int64_t block_col) const {
    return std::min<std::int64_t>(block_rows, rows - block_row * block_rows) *
           std::min<std::int64_t>(block_cols, cols - block_col * block_cols);
  }

  // Strips.
  std::int64_t tile_row_count() const { return divide_up(rows, kTileRows); }
  /// Tiles of a strip in this block column (1 or 2).
  int strip_tiles(std::int64_t block_col) const {
    return static_cast<int>(divide_up(std::min<std::int64_t>(block_cols, cols - block_col * block_cols), kTileCols));
  }
  /// Group columns stored for a strip in this block column: enough for its whole tiles.
  int strip_groups(std::int64_t block_col) const {
    return static_cast<int>(divide_up(std::int64_t{strip_tiles(block_col)} * kTileCols, group_cols));
  }
  /// Side bytes of one group column of one strip: 16 scale codes, then 16 zero codes.
  int group_side_bytes() const { return 2 * (side.scale_bits + side.zero_bits); }

  // Stripes.
  int stripe_rows() const { return std::max(64, block_rows); }
  std::int64_t stripe_count() const { return divide_up(rows, stripe_rows()); }
  std::int64_t stripe_tile_rows(std::int64_t stripe) const {
    return divide_up(std::min<std::int64_t>(stripe_rows(), rows - stripe * stripe_rows()), kTileRows);
  }
  std::int64_t stripe_block_rows(std::int64_t stripe) const {
    return divide_up(std::min<std::int64_t>(stripe_rows(), rows - stripe * stripe_rows()), block_rows);
  }

  std::uint64_t tag_bytes() const { return align_up(static_cast<std::uint64_t>(divide_up(block_count(), 2))); }
};

/// Throws Error(bad_input) naming `where` and the field when the shape is not 1 to 2^28 or a size is not one of those
/// above.
void validate(const MatrixFormat& format, const std::string& where);

/// Codes and side information of one block at a width, exact but for the padding of its stripe's side section (below 64
/// bytes per stripe, the only part of packed_bytes that does not add up block by block).
struct BlockBytes {
  std::uint64_t codes = 0;
  std::uint64_t side = 0;
};
BlockBytes block_bytes(const MatrixFormat& format, std::int64_t block_row, std::int64_t block_col, int width);

/// Bytes of the whole blob, by kind; O(blocks). `widths`: 0 to 8, row-major by (block row, block column).
struct PackedBytes {
  std::uint64_t tags = 0;
  std::uint64_t side = 0;  // with its padding
  std::uint64_t codes = 0;
  std::uint64_t total() const { return tags + side + codes; }
};
PackedBytes packed_bytes_by_kind(const MatrixFormat& format, std::span<const std::uint8_t> widths);
std::uint64_t packed_bytes(const MatrixFormat& format, std::span<const std::uint8_t> widths);

/// {"rows", "cols", "block": [rows, cols], "group", "side"}.
Json to_json(const MatrixFormat& format);
/// Validated.
MatrixFormat matrix_format_from_json(const Json& json, const std::string& where);

}  // namespace scalebits
