// The packed_i8 product with many rows of activations, as a prompt has them, generic over V as packed_i8_body.h is: the
// codes of a block column of a stripe are unpacked to bytes once for a panel of activations; then small blocks of
// results, up to kPanelTileRows tile rows x panel_x(width) rows of activations, are summed up in registers, where a
// broadcast activation serves several vectors of codes and these serve all activations of the block.
#pragma once

#include "kernels/cpu/packed_i8_body.h"

namespace scalebits {
namespace {

/// Rows of activations in a panel, at most: results of a stripe stay in the first cache.
inline constexpr int kPanelRows = 96;
inline constexpr int kUnpackedBytes = 1024;  // of a tile
/// Chunks whose products are added up before they are widened, at this width. Widths 5 to 7 are rare and share code.
template <class V>
constexpr int panel_run(int width) {
  return width >= 5 && width <= 7 && !V::kWideProducts ? 1 : V::chunks_per_run(width);
}

/// Rows [first, first + count) of the activations: values [tile column][count][64], scales and sums [group][count][2].
struct PanelOfRows {
  const std::int8_t* values;
  const float* scales;
  std::int64_t first;
  int count;
};

inline PanelOfRows panel_of_rows(const Activations& x, std::int64_t first, int count) {
  const std::int64_t tile_cols = x.cols / kTileCols, groups = x.groups();
  std::byte* const scratch = thread_scratch(static_cast<std::size_t>(count * (x.cols + groups * 8)));
  auto* const values = reinterpret_cast<std::int8_t*>(scratch);
  auto* const scales = reinterpret_cast<float*>(scratch + count * x.cols);
  for (int row = 0; row < count; ++row) {
    const std::int8_t* from = x.i8.data() + (first + row) * x.cols;
    for (std::int64_t col = 0; col < tile_cols; ++col)
      std::copy_n(from + col * kTileCols, kTileCols, values + (col * count + row) * kTileCols);
    for (std::int64_t group = 0; group < groups; ++group)
      std::copy_n(x.scales.data() + ((first + row) * groups + group) * 2, 2, scales + (group * count + row) * 2);
  }
  return {values, scales, first, count};
}

/// The tiles of one tile column that store something, unpacked, with scales and zeros of their groups of 64 inputs or,
/// where groups are of 32, of both halves.
template <class V>
struct UnpackedTiles {
  // 8-bit codes whose products would overflow are two tiles of 4 bits, the upper ones second.
  static constexpr int kStride = V::kWideProducts ? kUnpackedBytes : 2 * kUnpackedBytes;
  alignas(64) std::byte codes[kMaxStripeTileRows][kStride];
  alignas(64) float scales[kMaxStripeTileRows][2][kTileRows];
  alignas(64) float zeros[kMaxStripeTileRows][2][kTileRows];
  int tile_rows[kMaxStripeTileRows];  // of the stripe, ascending
  int widths[kMaxStripeTileRows];
  int count = 0;
};

template <class V, int Width>
void unpack(const std::byte* codes, std::byte* out) {
  if constexpr (Width == 8 && !V::kWideProducts) {
    unpack<V, 4>(codes, out);
    return unpack<V, 4>(codes + tile_bytes(4), out + kUnpackedBytes);
  }
  fetch_ahead(codes, tile_bytes(Width));
  for (int part = 0; part < V::kParts; ++part) {
    constexpr int kPartBytes = 64 / V::kParts;
    unpack_tile<V, Width>(codes + part * kPartBytes, out + part * kPartBytes);
  }
}

template <class V>
constexpr void (*kUnpack[kMaxWidth + 1])(const std::byte*, std::byte*) = {nullptr,      unpack<V, 1>, unpack<V, 2>,
                                                                          unpack<V, 3>, unpack<V, 4>, unpack<V, 5>,
                                                                          unpack<V, 6>, unpack<V, 7>, unpack<V, 8>};

template <class V>
void add_unpacked(UnpackedTiles<V>& tiles, const TileReader<V>& reader, int tile_row, int width, const std::byte* codes,
                  const std::byte* side) {
  const int i = tiles.count++;
  tiles.tile_rows[i] = tile_row;
  tiles.widths[i] = width;
  kUnpack<V>[width](codes, tiles.codes[i]);
  const int groups = reader.x_group == kTileCols ? 1 : 2;
  for (int group = 0; group < groups; ++group)
    for (int part = 0; part < V::kParts; ++part) {
      const std::byte* const at = side + group * reader.group_bytes;
      V::store(tiles.scales[i][group] + part * V::kLanes, reader.scale(at, width, part));
      V::store(tiles.zeros[i][group] + part * V::kLanes, reader.zero(at, width, part));
    }
}

/// sums[x · vectors + v] += Σ code · value over `count` chunks, for X rows of activations and R tiles' vectors.
template <class V, int R, int X, class Sum>
SCALEBITS_INLINE void add_products(const std::byte* tile_codes, const std::int8_t* values, int count, Sum* sums) {
  constexpr int kVectors = R * V::kParts;
#pragma GCC unroll 1  // unrolled, GCC makes all products first and has no registers for them
  for (int chunk = 0; chunk < count; ++chunk) {
    typename V::Ints codes[kVectors];
    unrolled<kVectors>([&](auto v) SCALEBITS_STEP {
      codes[v] = V::load(tile_codes + chunk * 64 + v / V::kParts * UnpackedTiles<V>::kStride +
                         v % V::kParts * (64 / V::kParts));
    });
    unrolled<X>([&](auto x) SCALEBITS_STEP {
      const auto value = V::broadcast4(values + x * kTileCols + chunk * 4);
      unrolled<kVectors>([&](auto v) SCALEBITS_STEP {
        sums[x * kVectors + v] = V::add_product(sums[x * kVectors + v], codes[v], value);
      });
    });
  }
}

/// The same over Count chunks, in runs of Run that V's narrow sums can hold.
template <class V, int R, int X, int Count, int Run, int Shift>
SCALEBITS_INLINE void add_runs_of(const std::byte* codes, const std::int8_t* values, typename V::Sum* sums) {
  for (int run = 0; run < Count; run += Run) {
    typename V::NarrowSum part[X * R * V::kParts];
    unrolled<X * R * V::kParts>([&](auto i) SCALEBITS_STEP { part[i] = typename V::NarrowSum{}; });
    add_products<V, R, X>(codes + run * 64, values + run * 4, Run, part);
    unrolled<X * R * V::kParts>([&](auto i) SCALEBITS_STEP { sums[i] += V::widened(part[i]) << Shift; });
  }
}

/// y [X][y_stride] += for tiles [tile, tile + R) of this width and X rows of activations over one group: chunks [First,
/// First + Count).
template <class V, int R, int X, int First, int Count, int Width>
SCALEBITS_INLINE void add_block(const UnpackedTiles<V>& tiles, int tile, const std::int8_t* values, const float* scales,
                                float* y, int y_stride) {
  constexpr int kVectors = R * V::kParts, kGroup = First == 0 ? 0 : 1;
  typename V::Sum sums[X * kVectors];
  unrolled<X * kVectors>([&](auto i) SCALEBITS_STEP { sums[i] = typename V::Sum{}; });
  const std::byte* const codes = tiles.codes[tile] + First * 64;
  if constexpr (V::kWideProducts) {
    add_products<V, R, X>(codes, values + First * 4, Count, sums);
  } else {
    constexpr int kRun = std::min(Count, panel_run<V>(Width == 8 ? 4 : Width));
    add_runs_of<V, R, X, Count, kRun, 0>(codes, values + First * 4, sums);
    if constexpr (Width == 8) add_runs_of<V, R, X, Count, kRun, 4>(codes + kUnpackedBytes, values + First * 4, sums);
  }
  unrolled<X>([&](auto x) SCALEBITS_STEP {
    const auto scale_x = V::broadcast(scales + 2 * x), sum_x = V::broadcast(scales + 2 * x + 1);
    unrolled<kVectors>([&](auto v) SCALEBITS_STEP {
      const int at = v % V::kParts * V::kLanes, row = tile + v / V::kParts;
      float* const to = y + x * y_stride + tiles.tile_rows[row] * kTileRows + at;
      const auto centred =
          V::subtract_product(V::to_floats(sums[x * kVectors + v]), V::load(tiles.zeros[row][kGroup] + at), sum_x);
      V::store(to,
               V::multiply_add(centred, V::multiply(V::load(tiles.scales[row][kGroup] + at), scale_x), V::load(to)));
    });
  });
}

/// Where a tile column's activations, their scales and the results lie.
struct PanelColumn {
  const std::int8_t* values;  // [rows][64]
  const float* scales;        // [1 or 2 groups][rows][2]
  int rows;
  bool half;  // two groups
  float* y;   // [rows][y_stride]
  int y_stride;
};

template <class V, int R, int X, int Width>
[[gnu::noinline]] void add_tiles(const UnpackedTiles<V>& tiles, int tile, const PanelColumn& column, int row) {
  const std::int8_t* const values = column.values + row * kTileCols;
  const float* const scales = column.scales + 2 * row;
  float* const y = column.y + row * column.y_stride;
  if (column.half) {
    add_block<V, R, X, 0, 8, Width>(tiles, tile, values, scales, y, column.y_stride);
    add_block<V, R, X, 8, 8, Width>(tiles, tile, values, scales + 2 * column.rows, y, column.y_stride);
  } else {
    add_block<V, R, X, 0, 16, Width>(tiles, tile, values, scales, y, column.y_stride);
  }
}

/// All rows of a panel, for tiles [tile, tile + R). Width: one that counts like theirs.
template <class V, int R, int Width>
void add_panel(const UnpackedTiles<V>& tiles, int tile, const PanelColumn& column) {
  int row = 0;
  const auto rows = [&]<int X>(std::integral_constant<int, X>) {
    for (; column.rows - row >= X; row += X) add_tiles<V, R, X, Width>(tiles, tile, column, row);
  };
  rows(std::integral_constant<int, V::panel_x(Width)>{});
  rows(std::integral_constant<int, 2>{});
  rows(std::integral_constant<int, 1>{});
}

template <class V>
void add_column(const UnpackedTiles<V>& tiles, const PanelColumn& column) {
  int tile = 0;
  if constexpr (V::kWideProducts) {  // the width is nothing to them
    if constexpr (V::kPanelTileRows == 4)
      for (; tiles.count - tile >= 4; tile += 4) add_panel<V, 4, 1>(tiles, tile, column);
    if constexpr (V::kPanelTileRows >= 2)
      for (; tiles.count - tile >= 2; tile += 2) add_panel<V, 2, 1>(tiles, tile, column);
    for (; tile < tiles.count; ++tile) add_panel<V, 1, 1>(tiles, tile, column);
  } else {
    for (; tile < tiles.count; ++tile) {
      const int width = tiles.widths[tile];
      if (width <= 3)
        add_panel<V, 1, 3>(tiles, tile, column);
      else if (width == 4)
        add_panel<V, 1, 4>(tiles, tile, column);
      else if (width == 8)
        add_panel<V, 1, 8>(tiles, tile, column);
      else
        add_panel<V, 1, 7>(tiles, tile, column);
    }
  }
}

/// The tile rows [first, last) of a stripe.
template <class V>
void run_panel_stripe(const PackedTask& task, const TileReader<V>& reader, const PanelOfRows& panel,
                      std::int64_t stripe, int first, int last) {
  const PackedWeights& weights = *task.weights;
  const MatrixFormat& format = weights.format();
  const int tile_rows = static_cast<int>(format.stripe_tile_rows(stripe)), y_stride = tile_rows * kTileRows;
  const bool half = reader.x_group == 32;
  const std::int64_t block_cols = format.block_col_count(), groups = half ? 2 : 1;
  alignas(64) float y[kPanelRows * kMaxStripeTileRows * kTileRows];
  std::fill_n(y, panel.count * y_stride, 0.0f);
  const std::uint8_t* widths = weights.stripe_widths(stripe);
  const std::byte *codes = weights.stripe_codes(stripe), *side = weights.stripe_side(stripe);
  UnpackedTiles<V> tiles;
  std::int64_t tile_col = 0;
  for (std::int64_t col = 0; col < block_cols; ++col, widths += tile_rows) {
    const int count = col + 1 < block_cols ? format.block_cols / kTileCols : format.strip_tiles(col);
    const int strip_side = reader.tile_side != 0 ? count * reader.tile_side : reader.group_bytes;
    for (int tile = 0; tile < count; ++tile, ++tile_col) {
      tiles.count = 0;
      const std::byte *strip_codes = codes, *strip = side;
      for (int tile_row = 0; tile_row < tile_rows; ++tile_row) {
        const int width = widths[tile_row];
        if (width == 0) continue;
        if (tile_row >= first && tile_row < last)
          add_unpacked(tiles, reader, tile_row, width,
                       strip_codes + tile * static_cast<std::int64_t>(tile_bytes(width)),
                       strip + tile * reader.tile_side);
        strip_codes += count * static_cast<std::int64_t>(tile_bytes(width));
        strip += strip_side;
      }
      if (tile + 1 == count) codes = strip_codes, side = strip;
      add_column(tiles,
                 PanelColumn{panel.values + tile_col * panel.count * kTileCols,
                             panel.scales + tile_col * groups * panel.count * 2, panel.count, half, y, y_stride});
    }
  }
  const std::int64_t top = stripe * (format.stripe_rows() / kTileRows) * kTileRows, from = first * kTileRows,
                     to = std::min<std::int64_t>(last * kTileRows, format.rows - top);
  for (int x = 0; x < panel.count; ++x)
    std::copy(y + x * y_stride + from, y + x * y_stride + to, task.y + (panel.first + x) * task.y_stride + top + from);
}

template <class V>
void run_packed_i8_panels(const PackedTask& task) {
  const TileReader<V> reader(*task.weights);
  const MatrixFormat& format = task.weights->format();
  const std::int64_t stripe_tile_rows = format.stripe_rows() / kTileRows, rows = task.x->rows;
  const std::int64_t panels = divide_up(divide_up(rows, V::panel_x(1)), kPanelRows / V::panel_x(1));
  for (std::int64_t p = 0, first_x = 0; p < panels; ++p) {
    // Nearly equal panels of whole blocks.
    const std::int64_t end = std::min(rows, divide_up(rows, V::panel_x(1)) * (p + 1) / panels * V::panel_x(1));
    const PanelOfRows panel = panel_of_rows(*task.x, first_x, static_cast<int>(end - first_x));
    for (std::int64_t stripe = task.first_tile_row / stripe_tile_rows; stripe * stripe_tile_rows < task.last_tile_row;
         ++stripe) {
      const std::int64_t top = stripe * stripe_tile_rows;
      run_panel_stripe<V>(task, reader, panel, stripe,
                          static_cast<int>(std::max<std::int64_t>(task.first_tile_row - top, 0)),
                          static_cast<int>(std::min(task.last_tile_row - top, format.stripe_tile_rows(stripe))));
    }
    first_x = end;
  }
}

}  // namespace
}  // namespace scalebits
