// The smallest unit of stored codes: a tile of 16 rows x 64 inputs at one width of 1 to 8 bits, 128 bytes per bit.
// Its one subtle rule is the order, made for vpdpbusd straight from the mapped file: a width is built from planes of
// 4, 2 and 1 bits (kPlanes); each plane is a run of 64-byte vectors; 32-bit lane r of a vector belongs to row r and
// holds 4 bytes k = 0..3; a plane of p bits has F = 8/p fields per byte, field s at bit p·s; vector v covers inputs
// 4F·v …, the code of input 4F·v + 4s + k lies in byte k, field s. A code's low bits are in the first plane.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace scalebits {

inline constexpr int kTileRows = 16;
inline constexpr int kTileCols = 64;
inline constexpr int kTileValues = kTileRows * kTileCols;
inline constexpr int kMaxWidth = 8;

/// Bits of each plane of a width, first (low bits of the code) to last; 0 ends the list.
inline constexpr std::array<std::array<int, 3>, kMaxWidth + 1> kPlanes = {
    {{0, 0, 0}, {1, 0, 0}, {2, 0, 0}, {2, 1, 0}, {4, 0, 0}, {4, 1, 0}, {4, 2, 0}, {4, 2, 1}, {4, 4, 0}}};

/// Bytes of one tile's codes; width 0 (a dropped block) stores nothing.
constexpr std::uint64_t tile_bytes(int width) { return static_cast<std::uint64_t>(kTileValues / 8 * width); }

/// `codes` row-major [16, 64], each below 2^width, to `out` of tile_bytes(width). Width 1 to 8.
void encode_tile(int width, std::span<const std::uint8_t, kTileValues> codes, std::span<std::byte> out);

/// The inverse; any bytes decode to codes below 2^width.
void decode_tile(int width, std::span<const std::byte> tile, std::span<std::uint8_t, kTileValues> codes);

/// Only row `row` (0 to 15) of the tile.
void decode_tile_row(int width, std::span<const std::byte> tile, int row, std::span<std::uint8_t, kTileCols> codes);

}  // namespace scalebits
