// The packed_i8 product for any vector width, generic over V, the vectors of one instruction set; each packed_i8_<isa>.cpp
// instantiates it with its own V. All is in an unnamed namespace, so that no code leaks out of a file compiled for one set.
// A 64-byte vector of codes holds 16 rows in lanes of 4 bytes, four neighbouring inputs each; where vectors are shorter, it
// is read in V::kParts parts. A stripe is walked in the order of the file: block column by block column, strip by strip.
#pragma once

#include "kernels/cpu/packed_i8.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace scalebits {
namespace {

inline constexpr int kMaxStripeTileRows = kMaxBlockRows / kTileRows;
/// How far ahead of its use code is fetched: memory's latency times its speed, measured (docs/kernels.md).
inline constexpr int kPrefetchBytes = 4096;

/// N rows of activations, interleaved so that one pointer serves all: values [cols / 4][N][4], scales and sums
/// [groups][N]. For N = 1 that is how they lie anyway.
struct RowBlock {
  const std::int8_t* values;
  const float* scales;
  const float* sums;
};

/// Where the 16 codes of a side stream lie: byte of code i, shift inside it.
struct SideStream {
  explicit SideStream(int bit_count) : bits(bit_count) {
    for (int i = 0; i < kTileRows; ++i) {
      const int bit = i * bits, byte = bit / 8;
      const bool crosses = bit % 8 + bits > 8;
      const std::uint8_t lane[4] = {static_cast<std::uint8_t>(byte),
                                    static_cast<std::uint8_t>(crosses ? byte + 1 : 0x80), 0x80, 0x80};
      std::copy_n(lane, 4, bytes + 4 * i);
      shifts[i] = static_cast<std::uint32_t>(bit % 8);
    }
  }
  alignas(64) std::uint8_t bytes[64];
  alignas(64) std::uint32_t shifts[16];
  int bits;
};

template <class V>
struct SideReader {
  explicit SideReader(const PackedWeights& weights)
      : table(weights.side()), scale_stream(table.format.scale_bits), zero_stream(table.format.zero_bits) {}
  typename V::Floats scale(const std::byte* side, int width, int part) const {
    return V::look_up(table.scales[static_cast<std::size_t>(width)].data(), V::codes(scale_stream, side, part),
                      scale_stream.bits);
  }
  typename V::Floats zero(const std::byte* side, int width, int part) const {
    return V::look_up(table.zeros[static_cast<std::size_t>(width)].data(),
                      V::codes(zero_stream, side + 2 * scale_stream.bits, part), zero_stream.bits);
  }
  const SideTable& table;
  SideStream scale_stream, zero_stream;
};

/// The codes of inputs 4·Chunk … 4·Chunk + 3, one byte each.
template <class V, int Width, int Chunk, int Plane = 0, int Low = 0, int Offset = 0>
typename V::Ints operand(const std::byte* codes, typename V::Ints merged = V::zero()) {
  constexpr int kBits = kPlanes[Width][Plane], kFields = 8 / kBits;
  constexpr int kShift = Chunk % kFields * kBits - Low, kMask = ((1 << kBits) - 1) << Low;
  const auto field = V::template shift<kShift>(V::load(codes + Offset + Chunk / kFields * 64));
  if constexpr (Plane == 0)
    merged = V::masked(field, kMask);
  else
    merged = V::merge(merged, field, kMask);
  if constexpr (Low + kBits < Width)
    return operand<V, Width, Chunk, Plane + 1, Low + kBits, Offset + 128 * kBits>(codes, merged);
  else
    return merged;
}

/// sums[n] += Σ code · value over Count chunks from First, for N rows of activations.
template <class V, int N, int Width, int First, int Count>
void add_products(const std::byte* codes, const std::int8_t* values, typename V::Ints* sums) {
  if constexpr (Width == 8 && !V::kWideProducts) {  // products of 8-bit codes would overflow: two widths of 4
    typename V::Ints high[N];
    for (int n = 0; n < N; ++n) high[n] = V::zero();
    add_products<V, N, 4, First, Count>(codes, values, sums);
    add_products<V, N, 4, First, Count>(codes + tile_bytes(4), values, high);
    for (int n = 0; n < N; ++n) sums[n] = V::add(sums[n], V::template shift<-4>(high[n]));
    return;
  } else {
    constexpr int kRun = std::min(Count, V::chunks_per_run(Width));
    typename V::Ints run[N];
    for (int n = 0; n < N; ++n) run[n] = V::zero();
    [&]<int... I>(std::integer_sequence<int, I...>) {
      (
          [&] {
            const auto codes_now = operand<V, Width, First + I>(codes);
            for (int n = 0; n < N; ++n)
              run[n] = V::multiply_add(run[n], codes_now, V::broadcast4(values + (I * N + n) * 4));
          }(),
          ...);
    }(std::make_integer_sequence<int, kRun>{});
    for (int n = 0; n < N; ++n) sums[n] = V::add(sums[n], V::widen(run[n]));
    if constexpr (kRun < Count)
      add_products<V, N, Width, First + kRun, Count - kRun>(codes, values + kRun * N * 4, sums);
  }
}

/// One group of at most 64 inputs: chunks [First, First + Count) of a tile. y: [N][16].
template <class V, int N, int Width, int First, int Count>
void add_group(const SideReader<V>& reader, const std::byte* codes, const std::byte* side, const RowBlock& x, float* y) {
  for (int part = 0; part < V::kParts; ++part) {
    const std::byte* mine = codes + part * (64 / V::kParts);
    typename V::Ints sums[N];
    for (int n = 0; n < N; ++n) sums[n] = V::zero();
    if constexpr (N <= 2 && Count > 8) {  // two chains of sums, since one would wait for itself
      typename V::Ints others[N];
      for (int n = 0; n < N; ++n) others[n] = V::zero();
      add_products<V, N, Width, First, Count / 2>(mine, x.values, sums);
      add_products<V, N, Width, First + Count / 2, Count / 2>(mine, x.values + Count / 2 * N * 4, others);
      for (int n = 0; n < N; ++n) sums[n] = V::add(sums[n], others[n]);
    } else {
      add_products<V, N, Width, First, Count>(mine, x.values, sums);
    }
    const auto scale = reader.scale(side, Width, part), zero = reader.zero(side, Width, part);
    for (int n = 0; n < N; ++n) {
      float* to = y + n * kTileRows + part * V::kLanes;
      const auto centred = V::subtract_product(V::to_floats(sums[n]), zero, V::broadcast(x.sums + n));
      V::store(to, V::multiply_add(centred, V::multiply(scale, V::broadcast(x.scales + n)), V::load(to)));
    }
  }
}

/// One tile of a strip; `tile` counts inside it.
template <class V, int N, int Width>
void add_tile(const SideReader<V>& reader, const MatrixFormat& format, const std::byte* codes, const std::byte* side,
              int tile, RowBlock x, float* y) {
  for (std::uint64_t line = 0; line < tile_bytes(Width); line += 64) V::prefetch(codes + kPrefetchBytes + line);
  if (format.group_cols == 32) {
    side += 2 * tile * format.group_side_bytes();
    add_group<V, N, Width, 0, 8>(reader, codes, side, x, y);
    x.values += 32 * N, x.scales += N, x.sums += N;
    add_group<V, N, Width, 8, 8>(reader, codes, side + format.group_side_bytes(), x, y);
  } else {
    add_group<V, N, Width, 0, 16>(reader, codes, side + tile * kTileCols / format.group_cols * format.group_side_bytes(),
                                  x, y);
  }
}

template <class V, int N>
void add_tile(const SideReader<V>& reader, const MatrixFormat& format, int width, const std::byte* codes,
              const std::byte* side, int tile, const RowBlock& x, float* y) {
  switch (width) {
    case 1: return add_tile<V, N, 1>(reader, format, codes, side, tile, x, y);
    case 2: return add_tile<V, N, 2>(reader, format, codes, side, tile, x, y);
    case 3: return add_tile<V, N, 3>(reader, format, codes, side, tile, x, y);
    case 4: return add_tile<V, N, 4>(reader, format, codes, side, tile, x, y);
    case 5: return add_tile<V, N, 5>(reader, format, codes, side, tile, x, y);
    case 6: return add_tile<V, N, 6>(reader, format, codes, side, tile, x, y);
    case 7: return add_tile<V, N, 7>(reader, format, codes, side, tile, x, y);
    default: return add_tile<V, N, 8>(reader, format, codes, side, tile, x, y);
  }
}

/// Calls strip(tile row in the stripe, block column, width, codes, side) for every strip of the stripe that stores something
/// and lies in tile rows [first, last) of it, in the order of the file.
template <typename Body>
void walk_stripe(const PackedWeights& weights, std::int64_t stripe, std::int64_t first, std::int64_t last,
                 const Body& body) {
  const MatrixFormat& format = weights.format();
  const std::int64_t tile_rows = format.stripe_tile_rows(stripe), block_cols = format.block_col_count();
  const int block_tile_rows = format.block_rows / kTileRows, stripe_blocks = format.stripe_rows() / format.block_rows;
  const std::uint8_t* widths = weights.stripe_widths(stripe);
  const std::byte *codes = weights.stripe_codes(stripe), *side = weights.stripe_side(stripe);
  const int side_bytes = format.group_side_bytes();
  for (std::int64_t col = 0; col < block_cols; ++col, widths += stripe_blocks) {
    const int tiles = format.strip_tiles(col), groups = format.strip_groups(col);
    for (std::int64_t tile_row = 0; tile_row < tile_rows; ++tile_row) {
      const int width = widths[tile_row / block_tile_rows];
      if (width == 0) continue;
      if (tile_row >= first && tile_row < last) body(tile_row, col, width, tiles, codes, side);
      codes += static_cast<std::uint64_t>(tiles) * tile_bytes(width);
      side += groups * side_bytes;
    }
  }
}

/// Stores rows 16·tile_row … of y [N][16], scattered, into rows from `first_x` on of the result.
void store_tile_row(const PackedTask& task, std::int64_t tile_row, std::int64_t first_x, int n, const float* y) {
  const std::span<const std::uint32_t> order = task.weights->row_order();
  const std::int64_t first = tile_row * kTileRows,
                     count = std::min<std::int64_t>(kTileRows, task.weights->format().rows - first);
  for (int i = 0; i < n; ++i) {
    float* to = task.y + (first_x + i) * task.y_stride;
    if (order.empty())
      std::copy_n(y + i * kTileRows, count, to + first);
    else
      for (std::int64_t r = 0; r < count; ++r) to[order[static_cast<std::size_t>(first + r)]] = y[i * kTileRows + r];
  }
}

/// Rows [first, first + N) of the activations, interleaved into the thread's scratch unless N is 1.
template <int N>
RowBlock row_block(const Activations& x, std::int64_t first) {
  const std::int64_t cols = x.cols, groups = x.groups();
  const std::int8_t* values = x.i8.data() + first * cols;
  const float *scales = x.scales.data() + first * groups, *sums = x.sums.data() + first * groups;
  if constexpr (N == 1) return {values, scales, sums};
  std::byte* scratch = thread_scratch(static_cast<std::size_t>(N * (cols + 8 * groups)));
  auto* to_values = reinterpret_cast<std::int8_t*>(scratch);
  auto* to_scales = reinterpret_cast<float*>(scratch + N * cols);
  float* to_sums = to_scales + N * groups;
  for (std::int64_t chunk = 0; chunk < cols / 4; ++chunk)
    for (int n = 0; n < N; ++n) std::copy_n(values + n * cols + chunk * 4, 4, to_values + (chunk * N + n) * 4);
  for (std::int64_t group = 0; group < groups; ++group)
    for (int n = 0; n < N; ++n) {
      to_scales[group * N + n] = scales[n * groups + group];
      to_sums[group * N + n] = sums[n * groups + group];
    }
  return {to_values, to_scales, to_sums};
}

template <class V, int N>
void run_rows(const PackedTask& task, const SideReader<V>& reader, std::int64_t first_x) {
  const MatrixFormat& format = task.weights->format();
  const RowBlock x = row_block<N>(*task.x, first_x);
  const std::int64_t stripe_tile_rows = format.stripe_rows() / kTileRows;
  const int tile_groups = kTileCols / task.x->group;
  alignas(64) float y[kMaxStripeTileRows][N * kTileRows];
  for (std::int64_t stripe = task.first_tile_row / stripe_tile_rows;
       stripe * stripe_tile_rows < task.last_tile_row; ++stripe) {
    const std::int64_t top = stripe * stripe_tile_rows;
    const std::int64_t first = std::max(task.first_tile_row - top, std::int64_t{0}),
                       last = std::min({task.last_tile_row - top, format.stripe_tile_rows(stripe)});
    for (std::int64_t tile_row = first; tile_row < last; ++tile_row) std::fill_n(y[tile_row], N * kTileRows, 0.0f);
    walk_stripe(*task.weights, stripe, first, last,
                [&](std::int64_t tile_row, std::int64_t col, int width, int tiles, const std::byte* codes,
                    const std::byte* side) {
                  for (int tile = 0; tile < tiles; ++tile, codes += tile_bytes(width)) {
                    const std::int64_t tile_col = col * (format.block_cols / kTileCols) + tile;
                    const std::int64_t group = tile_col * tile_groups;
                    add_tile<V, N>(reader, format, width, codes, side, tile,
                                   {x.values + tile_col * kTileCols * N, x.scales + group * N, x.sums + group * N},
                                   y[tile_row]);
                  }
                });
    for (std::int64_t tile_row = first; tile_row < last; ++tile_row)
      store_tile_row(task, top + tile_row, first_x, N, y[tile_row]);
  }
}

template <class V>
void run_packed_i8(const PackedTask& task) {
  const SideReader<V> reader(*task.weights);
  std::int64_t row = 0;
  const auto runs = [&]<int N>(std::integral_constant<int, N>) {
    if constexpr (N <= V::kMaxRows)
      for (; task.x->rows - row >= N; row += N) run_rows<V, N>(task, reader, row);
  };
  runs(std::integral_constant<int, 16>{});
  runs(std::integral_constant<int, 8>{});
  runs(std::integral_constant<int, 4>{});
  runs(std::integral_constant<int, 3>{});
  runs(std::integral_constant<int, 2>{});
  runs(std::integral_constant<int, 1>{});
}

}  // namespace
}  // namespace scalebits
