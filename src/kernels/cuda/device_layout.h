// How weights lie on the card: the order in which mma.m16n8k16 wants them, so that a lane reads its own words and turns
// them into fragments without asking another lane. Nested units, smallest first:
//   tile    16 rows x 64 inputs of one width w: a record of [side words, 32 bytes a group][planes], 128·w bytes of
//   codes,
//           w words for each of 32 lanes; width 0 has no record
//   cell    the 4 tiles of 64 rows x 64 inputs, top to bottom; a 16-bit word holds their widths, 4 bits each
//   panel   64 rows: its cells from left to right
//   stream  panel after panel: what a product reads, once, front to back, whatever the mix of widths
// The one subtle rule is where a code lies in its word. Fragment register r (0 to 3) of k step t (0 to 3) of a lane
// holds the weights of row lane/4 + 8·(r mod 2), inputs 16t + 8·(r div 2) + 2·(lane mod 4) and the next. In a plane of
// p bits registers number j = 4t + r lie 16/p to a word, word j div (16/p); field i = j mod (16/p) of the first input
// begins at bit B + p·i, of the second 16 bits further, all modulo 32, B = 6 (8 for p = 1). Turned right by a few bits,
// two fields lie in the top bits of the mantissas of two halves: an AND and an OR with an exponent give 2^shift·(offset
// + field) as f16, with an offset that depends on the width and r mod 2 alone, that is, on the row. So sums are
// corrected as zero points are: offset + zero.
#pragma once

#include "kernels/cuda/stored_tiles.h"

namespace scalebits::cuda {

inline constexpr int kPanelTiles = 4;
inline constexpr int kPanelRows = kPanelTiles * kStoredTileRows;
inline constexpr int kCellCols = kStoredTileCols;
inline constexpr int kFragmentRegisters = 16;  // of a tile, in each lane
inline constexpr int kMostRecordBytes = 2 * 32 + 128 * 8;

SCALEBITS_HD constexpr int record_bytes(int width, int groups) { return width == 0 ? 0 : 32 * groups + 128 * width; }
SCALEBITS_HD constexpr int cell_width(std::uint32_t widths, int tile) {
  return static_cast<int>(widths >> (4 * tile) & 15);
}
/// Of the records above tile `tile` (0 to 4) of a cell.
SCALEBITS_HD constexpr int bytes_above(std::uint32_t widths, int tile, int groups) {
  int bytes = 0;
  for (int above = 0; above < tile; ++above) bytes += record_bytes(cell_width(widths, above), groups);
  return bytes;
}

SCALEBITS_HD constexpr int cell_bytes(std::uint32_t widths, int groups) {
  return bytes_above(widths, kPanelTiles, groups);
}

/// Row of the tile and first of the two inputs that register r of k step t holds.
SCALEBITS_HD constexpr int fragment_row(int lane, int r) { return lane / 4 + 8 * (r % 2); }
SCALEBITS_HD constexpr int fragment_input(int lane, int t, int r) { return 16 * t + 8 * (r / 2) + 2 * (lane % 4); }

/// First bit, in its word, of field i of a plane of `bits` bits.
SCALEBITS_HD constexpr int field_bit(int bits, int i, int second) {
  return ((bits == 1 ? 8 : 6) + bits * i + 16 * second) % 32;
}

/// What is added to every code of the tile's rows 0-7 (half = 0) or 8-15 (half = 1) by expand_tile().
SCALEBITS_HD constexpr int code_offset(int width, int half) {
  int offset = 0, low = 0;
  for (int plane = 0; plane < 3; ++plane) {
    const int bits = plane_bits(width, plane);
    if (bits == 0) break;
    offset += (bits == 4 ? 16 : 1 << (bits * (2 - half))) << low;
    low += bits;
  }
  return offset;
}

/// Word q of the lane, 0 <= q < bits, of the plane of `bits` bits whose first byte in the stored tile is `plane`.
SCALEBITS_HD inline std::uint32_t fragment_word(const std::uint8_t* plane, int bits, int lane, int q) {
  std::uint32_t word = 0;
  for (int i = 0; i < 16 / bits; ++i) {
    const int j = q * (16 / bits) + i, t = j / 4, r = j % 4;
    for (int second = 0; second < 2; ++second) {
      const std::uint32_t field = stored_field(plane, bits, fragment_row(lane, r), fragment_input(lane, t, r) + second);
      // A field may begin at bit 30 and end at bit 1.
      word |= rotate_right(field, (32 - field_bit(bits, i, second)) % 32);
    }
  }
  return word;
}

/// Side word of lane group `g` (rows g and g + 8): scale code of row g, of row g + 8, zero code of g, of g + 8.
SCALEBITS_HD inline std::uint32_t side_word(const std::uint8_t* side, const StoredShape& shape, int g) {
  const std::uint8_t* zeros = side + 2 * shape.scale_bits;
  return stored_side_code(side, shape.scale_bits, g) | stored_side_code(side, shape.scale_bits, g + 8) << 8 |
         stored_side_code(zeros, shape.zero_bits, g) << 16 | stored_side_code(zeros, shape.zero_bits, g + 8) << 24;
}

/// One lane's part of moving a stored tile into its record, record_bytes() long, 32-byte aligned.
SCALEBITS_HD inline void repack_tile(const StoredShape& shape, const std::uint8_t* blob, const StoredTile& tile,
                                     int lane, std::uint32_t* record) {
  const int groups = tile_groups(shape);
  if (tile.width == 0) return;
  if (lane < 8 * groups)
    record[lane] = side_word(blob + tile.side + lane / 8 * group_side_bytes(shape), shape, lane % 8);
  std::uint32_t* words = record + 8 * groups;
  int low = 0;
  for (int plane = 0; plane < 3 && low < tile.width; ++plane) {
    const int bits = plane_bits(tile.width, plane);
    for (int q = 0; q < bits; ++q)
      words[32 * low + lane * bits + q] = fragment_word(blob + tile.codes + 128 * low, bits, lane, q);
    low += bits;
  }
}

/// The code of (row, input), looked up in a record: slow and obvious, for reference products and tests.
SCALEBITS_HD inline std::uint32_t device_code(const std::uint32_t* record, int width, int groups, int row, int input) {
  const int t = input / 16, r = row / 8 + 2 * (input % 16 / 8), lane = row % 8 * 4 + input % 8 / 2;
  const std::uint32_t* words = record + 8 * groups;
  std::uint32_t code = 0;
  int low = 0;
  for (int plane = 0; plane < 3 && low < width; ++plane) {
    const int bits = plane_bits(width, plane), j = 4 * t + r;
    const std::uint32_t word = words[32 * low + lane * bits + j / (16 / bits)];
    code |= (rotate_right(word, field_bit(bits, j % (16 / bits), input % 2)) & ((1u << bits) - 1)) << low;
    low += bits;
  }
  return code;
}

}  // namespace scalebits::cuda
