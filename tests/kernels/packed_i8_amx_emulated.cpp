// The kernel of packed_i8_amx.cpp as it stands, but for its tile registers, which are memory here: machines with
// AVX-512 VNNI check what runs on those that have AMX. What real tiles refuse (shapes that don't fit, no configuration)
// ends the test.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>

namespace {

struct Tile {
  int rows = 0, row_bytes = 0;
  alignas(64) std::uint8_t bytes[16][64];
};
thread_local Tile tiles[8];

Tile& tile(int number) {
  if (tiles[number].rows == 0) {
    std::fprintf(stderr, "AMX: tile %d is used and not configured\n", number);
    std::abort();
  }
  return tiles[number];
}

void configure(const void* from) {
  std::uint8_t config[64];
  std::memcpy(config, from, sizeof config);
  if (config[0] != 1 || config[1] != 0) std::abort();
  for (int i = 0; i < 8; ++i) {
    std::uint16_t row_bytes = 0;
    std::memcpy(&row_bytes, config + 16 + 2 * i, sizeof row_bytes);
    tiles[i] = {config[48 + i], row_bytes, {}};
    if (tiles[i].rows > 16 || row_bytes > 64) std::abort();
  }
}
void release() {
  for (Tile& each : tiles) each = {};
}
void load(int number, const void* from, std::size_t stride) {
  Tile& to = tile(number);
  for (int row = 0; row < to.rows; ++row)
    std::memcpy(to.bytes[row], static_cast<const char*>(from) + row * stride, static_cast<std::size_t>(to.row_bytes));
}
void store(int number, void* to, std::size_t stride) {
  const Tile& from = tile(number);
  for (int row = 0; row < from.rows; ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, from.bytes[row], static_cast<std::size_t>(from.row_bytes));
}
void clear(int number) { std::memset(tile(number).bytes, 0, sizeof tile(number).bytes); }

/// c[m][n] += Σ a[m][4k + i] · b[k][4n + i], a signed, b unsigned.
void multiply_add_signed_unsigned(int to, int left, int right) {
  Tile &c = tile(to), &a = tile(left), &b = tile(right);
  if (a.row_bytes != 4 * b.rows || c.rows != a.rows || c.row_bytes != b.row_bytes) {
    std::fprintf(stderr, "AMX: tiles %d, %d and %d do not fit\n", to, left, right);
    std::abort();
  }
  for (int m = 0; m < c.rows; ++m)
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      std::int32_t sum = 0;
      std::memcpy(&sum, c.bytes[m] + 4 * n, 4);
      for (int k = 0; k < b.rows; ++k)
        for (int i = 0; i < 4; ++i) sum += static_cast<std::int8_t>(a.bytes[m][4 * k + i]) * b.bytes[k][4 * n + i];
      std::memcpy(c.bytes[m] + 4 * n, &sum, 4);
    }
}

}  // namespace

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#define _tile_loadconfig configure
#define _tile_release release
#define _tile_loadd load
#define _tile_stored store
#define _tile_zero clear
#define _tile_dpbsud multiply_add_signed_unsigned
#define run_packed_i8_amx run_packed_i8_amx_emulated
#include "kernels/cpu/packed_i8_amx.cpp"
