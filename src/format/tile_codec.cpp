#include "format/tile_codec.h"

#include "core/error.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace scalebits {
namespace {

// Four codes move at once as one 32-bit word: lane r of a vector, bytes k = 0..3.
static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t field_mask(int plane_bits) { return 0x01010101u * ((1u << plane_bits) - 1); }

std::uint32_t load_word(const void* from) {
  std::uint32_t word;
  std::memcpy(&word, from, 4);
  return word;
}
void store_word(void* to, std::uint32_t word) { std::memcpy(to, &word, 4); }

/// Calls body(vector index from the start of the tile, plane bits, low bit of the plane in the code, field, first
/// input) for each field of each vector of each plane.
template <typename Body>
void for_each_field(int width, const Body& body) {
  int vector = 0, low = 0;
  for (const int bits : kPlanes[static_cast<std::size_t>(width)]) {
    if (bits == 0) break;
    const int fields = 8 / bits;
    for (int v = 0; v < 2 * bits; ++v)
      for (int field = 0; field < fields; ++field) body(vector + v, bits, low, field, 4 * (fields * v + field));
    vector += 2 * bits;
    low += bits;
  }
}

}  // namespace

void encode_tile(int width, std::span<const std::uint8_t, kTileValues> codes, std::span<std::byte> out) {
  SCALEBITS_ASSERT(width >= 1 && width <= kMaxWidth && out.size() == tile_bytes(width));
  std::fill(out.begin(), out.end(), std::byte{0});
  for_each_field(width, [&](int vector, int bits, int low, int field, int input) {
    for (int row = 0; row < kTileRows; ++row) {
      std::byte* lane = out.data() + 64 * vector + 4 * row;
      const std::uint32_t plane = (load_word(codes.data() + row * kTileCols + input) >> low) & field_mask(bits);
      store_word(lane, load_word(lane) | plane << (bits * field));
    }
  });
}

void decode_tile(int width, std::span<const std::byte> tile, std::span<std::uint8_t, kTileValues> codes) {
  SCALEBITS_ASSERT(width >= 1 && width <= kMaxWidth && tile.size() == tile_bytes(width));
  std::fill(codes.begin(), codes.end(), std::uint8_t{0});
  for_each_field(width, [&](int vector, int bits, int low, int field, int input) {
    for (int row = 0; row < kTileRows; ++row) {
      std::uint8_t* code = codes.data() + row * kTileCols + input;
      const std::uint32_t plane = (load_word(tile.data() + 64 * vector + 4 * row) >> (bits * field)) & field_mask(bits);
      store_word(code, load_word(code) | plane << low);
    }
  });
}

void decode_tile_row(int width, std::span<const std::byte> tile, int row, std::span<std::uint8_t, kTileCols> codes) {
  SCALEBITS_ASSERT(width >= 1 && width <= kMaxWidth && tile.size() == tile_bytes(width) && row >= 0 && row < kTileRows);
  std::fill(codes.begin(), codes.end(), std::uint8_t{0});
  for_each_field(width, [&](int vector, int bits, int low, int field, int input) {
    std::uint8_t* code = codes.data() + input;
    const std::uint32_t plane = (load_word(tile.data() + 64 * vector + 4 * row) >> (bits * field)) & field_mask(bits);
    store_word(code, load_word(code) | plane << low);
  });
}

}  // namespace scalebits
