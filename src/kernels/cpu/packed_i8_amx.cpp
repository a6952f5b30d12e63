// The packed_i8 product on AMX, for many rows of activations: a tile of codes, unpacked to bytes, is the right operand
// of a tile product as it lies (16 groups of 4 inputs x 16 rows); 16 rows of activations are the left one. The 16x16
// sums of one group are then scaled with AVX-512, which takes longer than the products themselves.
#include "kernels/cpu/packed_i8_512.h"

namespace scalebits {
namespace {

constexpr int kTileX = 16;        // rows of activations of one tile product
constexpr int kBlockX = 64;       // rows of activations worked on together: what four tiles of sums hold
constexpr int kTileBytes = 1024;  // of a full tile

// Tile registers 0 to 3 hold sums; 4 and 5 are operands of 64 inputs, 6 and 7 of 32.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 32, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 8};
};

/// Rows [first, first + count) of the activations: values [tile column][tile of 16 rows][16][64], padded with zeros,
/// and scales and sums [group][kBlockX][2].
struct Panel {
  const std::int8_t* values;
  const float* scales;
  int count;
  int tiles;
};

Panel make_panel(const Activations& x, std::int64_t first, int count) {
  const int tiles = (count + kTileX - 1) / kTileX;
  const std::int64_t tile_cols = x.cols / kTileCols, groups = x.groups();
  std::byte* scratch = thread_scratch(static_cast<std::size_t>(tiles * tile_cols * kTileBytes + groups * kBlockX * 8));
  auto* values = reinterpret_cast<std::int8_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(scratch + tiles * tile_cols * kTileBytes);
  for (int row = 0; row < tiles * kTileX; ++row)
    for (std::int64_t col = 0; col < tile_cols; ++col) {
      std::int8_t* to = values + (col * tiles + row / kTileX) * kTileBytes + row % kTileX * kTileCols;
      _mm512_store_si512(to, row < count ? _mm512_loadu_si512(x.i8.data() + (first + row) * x.cols + col * kTileCols)
                                         : _mm512_setzero_si512());
    }
  for (int row = 0; row < count; ++row)
    for (std::int64_t group = 0; group < groups; ++group)
      std::copy_n(x.scales.data() + ((first + row) * groups + group) * 2, 2, scales + (group * kBlockX + row) * 2);
  return {values, scales, count, tiles};
}

/// Sums [tile of x][16][16] of one group of a tile: 64 inputs, or the 32 from chunk `First` on.
template <bool Half, int First>
SCALEBITS_INLINE void multiply(const std::byte* codes, const std::int8_t* values, int tiles, std::int32_t* sums) {
  // Register numbers must be literals.
#define SCALEBITS_TILE(t)                                            \
  if (tiles > (t)) {                                                 \
    const std::int8_t* left = values + (t) * kTileBytes + First * 4; \
    _tile_zero(t);                                                   \
    if constexpr (Half) {                                            \
      _tile_loadd(6, left, kTileCols);                               \
      _tile_dpbsud(t, 6, 7);                                         \
    } else {                                                         \
      _tile_loadd(4, left, kTileCols);                               \
      _tile_dpbsud(t, 4, 5);                                         \
    }                                                                \
    _tile_stored(t, sums + (t) * kTileX * kTileRows, kTileRows * 4); \
  }
  if constexpr (Half)
    _tile_loadd(7, codes + First * 64, 64);
  else
    _tile_loadd(5, codes, 64);
  SCALEBITS_TILE(0)
  SCALEBITS_TILE(1)
  SCALEBITS_TILE(2)
  SCALEBITS_TILE(3)
#undef SCALEBITS_TILE
}

/// y [row of x][16] += sums, scaled as kernel.h says.
SCALEBITS_INLINE void add_scaled(const std::int32_t* sums, const float* scales, int count, __m512 scale, __m512 zero,
                                 float* y) {
  for (int row = 0; row < count; ++row) {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + row * kTileRows));
    const __m512 centred = _mm512_fnmadd_ps(zero, _mm512_set1_ps(scales[2 * row + 1]), sum);
    const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(scales[2 * row]));
    _mm512_store_ps(y + row * kTileRows, _mm512_fmadd_ps(centred, factor, _mm512_load_ps(y + row * kTileRows)));
  }
}

/// The same job as add_tile(): one tile of the matrix, for the rows of a panel.
template <int Width>
void add_panel_tile(const TileReader<Avx512>& reader, const std::byte* codes, const std::byte* side,
                    const std::int8_t* values, const float* scales, const Panel& panel, float* y) {
  fetch_ahead(codes, tile_bytes(Width));
  alignas(64) std::byte unpacked[kTileBytes];
  alignas(64) std::int32_t sums[kBlockX * kTileRows];
  unpack_tile<Avx512, Width>(codes, unpacked);
  if (reader.x_group == kTileCols) {
    multiply<false, 0>(unpacked, values, panel.tiles, sums);
    add_scaled(sums, scales, panel.count, reader.scale(side, Width, 0), reader.zero(side, Width, 0), y);
    return;
  }
  multiply<true, 0>(unpacked, values, panel.tiles, sums);
  add_scaled(sums, scales, panel.count, reader.scale(side, Width, 0), reader.zero(side, Width, 0), y);
  side += reader.group_bytes;
  multiply<true, 8>(unpacked, values, panel.tiles, sums);
  add_scaled(sums, scales + 2 * kBlockX, panel.count, reader.scale(side, Width, 0), reader.zero(side, Width, 0), y);
}

using PanelTileFunction = void (*)(const TileReader<Avx512>&, const std::byte*, const std::byte*, const std::int8_t*,
                                   const float*, const Panel&, float*);
constexpr PanelTileFunction kPanelTileFunctions[kMaxWidth + 1] = {
    nullptr,           add_panel_tile<1>, add_panel_tile<2>, add_panel_tile<3>, add_panel_tile<4>,
    add_panel_tile<5>, add_panel_tile<6>, add_panel_tile<7>, add_panel_tile<8>};

}  // namespace

void run_packed_i8_amx(const PackedTask& task) {
  const TileReader<Avx512> reader(*task.weights);
  const TileConfig config;
  asm volatile("" ::: "memory");  // GCC 12 takes the configuration for unread, and drops the stores to it
  _tile_loadconfig(&config);
  for (std::int64_t first_x = 0; first_x < task.x->rows; first_x += kBlockX) {
    const Panel panel =
        make_panel(*task.x, first_x, static_cast<int>(std::min<std::int64_t>(kBlockX, task.x->rows - first_x)));
    const std::int64_t tile_groups = kTileCols / task.x->group;
    run_stripes<kBlockX>(
        task, reader, first_x, panel.count,
        [&](int width, const std::byte* codes, const std::byte* side, std::int64_t tile_col, float* y) {
          kPanelTileFunctions[width](reader, codes, side, panel.values + tile_col * panel.tiles * kTileBytes,
                                     panel.scales + tile_col * tile_groups * kBlockX * 2, panel, y);
        });
  }
  _tile_release();
}

}  // namespace scalebits
