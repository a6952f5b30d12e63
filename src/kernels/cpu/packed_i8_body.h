// The packed_i8 product for any vector width, generic over V, the vectors of one instruction set; each
// packed_i8_<isa>.cpp instantiates it with its own V. All is in an unnamed namespace, so that no code leaks out of a
// file compiled for one set. A 64-byte vector of codes holds 16 rows in lanes of 4 bytes, four neighbouring inputs
// each; where vectors are shorter, it is read in V::kParts parts. A stripe is walked in the order of the file: block
// column by block column, strip by strip.
#pragma once

#include "core/inline.h"
#include "kernels/cpu/packed_i8.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace scalebits {
namespace {

inline constexpr int kMaxStripeTileRows = kMaxBlockRows / kTileRows;
/// Codes are fetched twice ahead of their use: far, into the second cache, since a core can wait for some forty lines
/// on the way there but only for a dozen on the way to the first; and near, into the first. Measured in
/// docs/kernels.md.
inline constexpr int kFarBytes = 8192;
inline constexpr int kNearBytes = 2048;

SCALEBITS_INLINE void fetch_ahead(const std::byte* codes, std::uint64_t bytes) {
  for (std::uint64_t line = 0; line < bytes; line += 64) {
    __builtin_prefetch(codes + kFarBytes + line, 0, 2);
    __builtin_prefetch(codes + kNearBytes + line, 0, 3);
  }
}

/// body(0), … body(N - 1), with constants for arguments: GCC keeps arrays indexed by them in registers, which it does
/// not when loops are unrolled.
template <int N, class Body>
SCALEBITS_INLINE void unrolled(const Body& body) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      SCALEBITS_STEP { (body(std::integral_constant<int, I>{}), ...); }(std::make_integer_sequence<int, N>{});
}

/// N rows of activations, interleaved so that one pointer serves all: values [cols / 4][N][4], scales and sums
/// [groups][N][2]. For N = 1 that is how they lie anyway.
struct RowBlock {
  const std::int8_t* values;
  const float* scales;
};

/// The bits of a scale code that V::look_up_octaves takes for powers of two.
template <class V>
SCALEBITS_INLINE typename V::Ints octaves(int scale_bits) {
  return V::broadcast_bits(((1u << scale_bits) - 1) & ~(V::kLanes - 1u));
}

/// What the sums over a tile need to know of the matrix.
template <class V>
struct TileReader {
  explicit TileReader(const PackedWeights& weights)
      : table(weights.side()), scale_stream(weights.scale_stream()), zero_stream(weights.zero_stream()),
        group_bytes(weights.format().group_side_bytes()), x_group(weights.activation_group()),
        tile_side(weights.format().group_cols > kTileCols ? 0 : kTileCols / weights.format().group_cols * group_bytes),
        strip_side(tile_side != 0 ? tile_side : group_bytes) {}
  SCALEBITS_INLINE typename V::Floats scale(const std::byte* side, int width, int part) const {
    const float* const scales = table.scales[static_cast<std::size_t>(width)].data();
    if (table.octave_of_eight)
      return V::look_up_octaves(scales, V::unmasked_codes(scale_stream, side, part), octaves<V>(scale_stream.bits));
    return V::look_up(scales, V::codes(scale_stream, side, part), scale_stream.bits);
  }
  SCALEBITS_INLINE typename V::Floats zero(const std::byte* side, int width, int part) const {
    return V::look_up(table.zeros[static_cast<std::size_t>(width)].data(),
                      V::codes(zero_stream, side + 2 * scale_stream.bits, part), zero_stream.bits);
  }
  const SideTable& table;
  const SideStream &scale_stream, &zero_stream;
  int group_bytes;
  int x_group;
  int tile_side;   // side bytes of one tile; 0: its strip's tiles share a group
  int strip_side;  // what the side pointer moves by, after each tile or after each strip
};

/// Codes are cheapest left where they lie in their bytes: sums of code · 2^e are shifted back once per group, in place
/// of every operand. How far up the codes of a chunk may stay, so that they fit 8 bits and, where V's sums are narrow,
/// a quarter of a tile's chunks these; the same for chunks 4 apart.
template <class V>
constexpr int exponent_of(int width, int chunk) {
  switch (width) {
    case 1: return chunk % 4;
    case 2: return V::kWideProducts ? chunk % 4 * 2 : chunk % 2 * 2;
    case 3: return V::kWideProducts ? std::min(chunk % 4 * 2, 4) : chunk % 2 * 2;
    case 4: return V::kWideProducts ? chunk % 2 * 4 : 0;
    default: return 0;
  }
}

/// The codes of inputs 4·Chunk … 4·Chunk + 3, one byte each, times 2^Exponent.
template <class V, int Width, int Chunk, int Exponent, int Plane = 0, int Low = 0, int Offset = 0>
SCALEBITS_INLINE typename V::Ints operand(const std::byte* codes, typename V::Ints merged = V::zero()) {
  constexpr int kBits = kPlanes[Width][Plane], kFields = 8 / kBits, kUp = Low + Exponent;
  constexpr int kShift = Chunk % kFields * kBits - kUp, kMask = ((1 << kBits) - 1) << kUp;
  const auto field = V::template shift<kShift>(V::load(codes + Offset + Chunk / kFields * 64));
  if constexpr (Plane == 0)
    merged = V::masked(field, kMask);
  else
    merged = V::merge(merged, field, kMask);
  if constexpr (Low + kBits < Width)
    return operand<V, Width, Chunk, Exponent, Plane + 1, Low + kBits, Offset + 128 * kBits>(codes, merged);
  else
    return merged;
}

template <class V>
inline constexpr int kPartBytes = 64 / V::kParts;

/// For one row of activations: sums [4][parts], sums[Chunk % 4] += Σ code · 2^exponent · value over chunks [Chunk,
/// End). Four chains of sums, since a single one would wait for itself.
template <class V, int Width, int Chunk, int End>
SCALEBITS_INLINE void add_in_place(const std::byte* codes, const std::int8_t* values, typename V::NarrowSum* sums) {
  if constexpr (Chunk < End) {
    const auto value = V::broadcast4(values);
    unrolled<V::kParts>([&](auto part) SCALEBITS_STEP {
      const auto codes_now = operand<V, Width, Chunk, exponent_of<V>(Width, Chunk)>(codes + part * kPartBytes<V>);
      auto& sum = sums[Chunk % 4 * V::kParts + part];
      sum = V::add_product(sum, codes_now, value);
    });
    add_in_place<V, Width, Chunk + 1, End>(codes, values + 4, sums);
  }
}

/// For N rows of activations: run [N][parts] += Σ code · value over chunks [Chunk, End).
template <class V, int N, int Width, int Chunk, int End>
SCALEBITS_INLINE void add_chunks(const std::byte* codes, const std::int8_t* values, typename V::NarrowSum* run) {
  if constexpr (Chunk < End) {
    typename V::Ints codes_now[V::kParts];
    unrolled<V::kParts>(
        [&](auto part) SCALEBITS_STEP { codes_now[part] = operand<V, Width, Chunk, 0>(codes + part * kPartBytes<V>); });
    unrolled<N>([&](auto n) SCALEBITS_STEP { V::add_products_at(run + n * V::kParts, codes_now, values + n * 4); });
    add_chunks<V, N, Width, Chunk + 1, End>(codes, values + N * 4, run);
  }
}

/// sums [N][parts] += Σ code · value over chunks [Chunk, End), in runs no longer than V's narrow sums can hold.
template <class V, int N, int Width, int Chunk, int End>
SCALEBITS_INLINE void add_runs(const std::byte* codes, const std::int8_t* values, typename V::Sum* sums) {
  if constexpr (Chunk < End) {
    constexpr int kEnd = std::min(End, Chunk + V::chunks_per_run(Width));
    typename V::NarrowSum run[N * V::kParts] = {};
    add_chunks<V, N, Width, Chunk, kEnd>(codes, values, run);
    unrolled<N * V::kParts>([&](auto i) SCALEBITS_STEP { sums[i] += V::widened(run[i]); });
    add_runs<V, N, Width, kEnd, End>(codes, values + (kEnd - Chunk) * N * 4, sums);
  }
}

/// sums [parts] = Σ code · value over chunks [First, First + Count), for one row of activations.
template <class V, int Width, int First, int Count>
SCALEBITS_INLINE void product(const std::byte* codes, const std::int8_t* values, typename V::Sum* sums) {
  constexpr int kUp = std::max(
      {exponent_of<V>(Width, 0), exponent_of<V>(Width, 1), exponent_of<V>(Width, 2), exponent_of<V>(Width, 3)});
  static_assert(V::kWideProducts || Count / 4 * 2 * 127 * (((1 << Width) - 1) << kUp) <= 32767);
  typename V::NarrowSum chains[4 * V::kParts] = {};
  add_in_place<V, Width, First, First + Count>(codes, values, chains);
  unrolled<V::kParts>([&](auto part) SCALEBITS_STEP {
    typename V::NarrowSum of[4];
    unrolled<4>([&](auto i) SCALEBITS_STEP { of[i] = chains[i * V::kParts + part] >> exponent_of<V>(Width, i); });
    constexpr int kRun = V::chunks_per_run(Width);
    if constexpr (kRun >= Count)
      sums[part] = V::widened((of[0] + of[2]) + (of[1] + of[3]));
    else if constexpr (kRun >= Count / 2)
      sums[part] = V::widened(of[0] + of[2]) + V::widened(of[1] + of[3]);
    else
      sums[part] = (V::widened(of[0]) + V::widened(of[2])) + (V::widened(of[1]) + V::widened(of[3]));
  });
}

/// sums [N][parts] = Σ code · value over chunks [First, First + Count), for N rows of activations.
template <class V, int N, int Width, int First, int Count>
SCALEBITS_INLINE void products(const std::byte* codes, const std::int8_t* values, typename V::Sum* sums) {
  constexpr int kSums = N * V::kParts;
  if constexpr (Width == 8 && !V::kWideProducts) {  // products of 8-bit codes would overflow: two widths of 4
    typename V::Sum high[kSums];
    products<V, N, 4, First, Count>(codes, values, sums);
    products<V, N, 4, First, Count>(codes + tile_bytes(4), values, high);
    unrolled<kSums>([&](auto i) SCALEBITS_STEP { sums[i] += high[i] << 4; });
  } else if constexpr (N == 1 && V::chunks_per_run(Width) >= Count / 4) {
    product<V, Width, First, Count>(codes, values, sums);
  } else {
    unrolled<kSums>([&](auto i) SCALEBITS_STEP { sums[i] = typename V::Sum{}; });
    constexpr int kMiddle = kSums <= 3 ? First + Count / 2 : First + Count;
    add_runs<V, N, Width, First, kMiddle>(codes, values, sums);
    if constexpr (kMiddle < First + Count) {  // a second chain
      typename V::Sum others[kSums] = {};
      add_runs<V, N, Width, kMiddle, First + Count>(codes, values + (kMiddle - First) * N * 4, others);
      unrolled<kSums>([&](auto i) SCALEBITS_STEP { sums[i] += others[i]; });
    }
  }
}

/// The codes of a tile as bytes, [16 chunks][16 rows][4 inputs], to `out` of 1024 bytes.
template <class V, int Width, int Chunk = 0>
SCALEBITS_INLINE void unpack_tile(const std::byte* codes, std::byte* out) {
  if constexpr (Chunk < kTileCols / 4) {
    V::store(out + Chunk * 64, operand<V, Width, Chunk, 0>(codes));
    unpack_tile<V, Width, Chunk + 1>(codes, out);
  }
}

/// One group of at most 64 inputs: chunks [First, First + Count) of a tile. y: [N][16].
template <class V, int N, int Width, int First, int Count>
SCALEBITS_INLINE void add_group(const TileReader<V>& reader, const std::byte* codes, const std::byte* side,
                                const std::int8_t* values, const float* scales, float* y) {
  typename V::Sum sums[N * V::kParts];
  products<V, N, Width, First, Count>(codes, values, sums);
  unrolled<V::kParts>([&](auto part) SCALEBITS_STEP {
    const auto scale = reader.scale(side, Width, part), zero = reader.zero(side, Width, part);
    unrolled<N>([&](auto n) SCALEBITS_STEP {
      float* const to = y + n * kTileRows + part * V::kLanes;
      const auto centred =
          V::subtract_product(V::to_floats(sums[n * V::kParts + part]), zero, V::broadcast(scales + 2 * n + 1));
      V::store(to, V::multiply_add(centred, V::multiply(scale, V::broadcast(scales + 2 * n)), V::load(to)));
    });
  });
}

/// One tile, whose groups of 32 or (at least) 64 inputs begin at `side`. A function of its own for each width: all of
/// it inlined into one loop makes the compiler spill what the loop needs.
template <class V>
using TileFunction = void (*)(const TileReader<V>& reader, const std::byte* codes, const std::byte* side,
                              const std::int8_t* values, const float* scales, float* y);

template <class V, int N, int Width, bool Half>
void add_tile(const TileReader<V>& reader, const std::byte* codes, const std::byte* side, const std::int8_t* values,
              const float* scales, float* y) {
  fetch_ahead(codes, tile_bytes(Width));
  if constexpr (Half) {
    add_group<V, N, Width, 0, 8>(reader, codes, side, values, scales, y);
    add_group<V, N, Width, 8, 8>(reader, codes, side + reader.group_bytes, values + 32 * N, scales + 2 * N, y);
  } else {
    add_group<V, N, Width, 0, 16>(reader, codes, side, values, scales, y);
  }
}

template <class V, int N, bool Half>
constexpr TileFunction<V> kTileFunctions[kMaxWidth + 1] = {nullptr,
                                                           add_tile<V, N, 1, Half>,
                                                           add_tile<V, N, 2, Half>,
                                                           add_tile<V, N, 3, Half>,
                                                           add_tile<V, N, 4, Half>,
                                                           add_tile<V, N, 5, Half>,
                                                           add_tile<V, N, 6, Half>,
                                                           add_tile<V, N, 7, Half>,
                                                           add_tile<V, N, 8, Half>};

/// Stores rows 16·tile_row … of y [N][16] into rows from `first_x` on of the result.
void store_tile_row(const PackedTask& task, std::int64_t tile_row, std::int64_t first_x, int n, const float* y) {
  const std::int64_t first = tile_row * kTileRows,
                     count = std::min<std::int64_t>(kTileRows, task.weights->format().rows - first);
  for (int i = 0; i < n; ++i) std::copy_n(y + i * kTileRows, count, task.y + (first_x + i) * task.y_stride + first);
}

/// Rows [first, first + N) of the activations, interleaved into `scratch` unless N is 1.
template <int N>
RowBlock row_block(const Activations& x, std::int64_t first, std::byte* scratch) {
  const std::int64_t cols = x.cols, groups = x.groups();
  const std::int8_t* values = x.i8.data() + first * cols;
  const float* scales = x.scales.data() + first * groups * 2;
  if constexpr (N == 1) return {values, scales};
  auto* to_values = reinterpret_cast<std::int8_t*>(scratch);
  auto* to_scales = reinterpret_cast<float*>(scratch + N * cols);
  for (std::int64_t chunk = 0; chunk < cols / 4; ++chunk)
    for (int n = 0; n < N; ++n) std::copy_n(values + n * cols + chunk * 4, 4, to_values + (chunk * N + n) * 4);
  for (std::int64_t group = 0; group < groups; ++group)
    for (int n = 0; n < N; ++n) std::copy_n(scales + (n * groups + group) * 2, 2, to_scales + (group * N + n) * 2);
  return {to_values, to_scales};
}

/// Calls add(width, codes, side, tile column, y) for every tile of the task that stores something, in the order of the
/// file, where y [N][16] sums up the tile's rows for `count` <= N rows of activations from `first_x` on; and stores the
/// sums. The inner loop is lean on purpose: it turns once for every 1024 weights, in some forty cycles.
template <int N, class V, typename Add>
SCALEBITS_INLINE void run_stripes(const PackedTask& task, const TileReader<V>& reader, std::int64_t first_x, int count,
                                  const Add& add) {
  const PackedWeights& weights = *task.weights;
  const MatrixFormat& format = weights.format();
  const std::int64_t stripe_tile_rows = format.stripe_rows() / kTileRows, block_cols = format.block_col_count();
  alignas(64) float y[kMaxStripeTileRows * N * kTileRows];
  for (std::int64_t stripe = task.first_tile_row / stripe_tile_rows; stripe * stripe_tile_rows < task.last_tile_row;
       ++stripe) {
    const std::int64_t top = stripe * stripe_tile_rows;
    const int first = static_cast<int>(std::max(task.first_tile_row - top, std::int64_t{0})),
              last = static_cast<int>(std::min(task.last_tile_row - top, format.stripe_tile_rows(stripe))),
              tile_rows = static_cast<int>(format.stripe_tile_rows(stripe));
    for (int tile_row = first; tile_row < last; ++tile_row)
      std::fill_n(y + tile_row * N * kTileRows, count * kTileRows, 0.0f);
    const std::uint8_t* widths = weights.stripe_widths(stripe);
    const std::byte *codes = weights.stripe_codes(stripe), *side = weights.stripe_side(stripe);
    std::int64_t tile_col = 0;
    for (std::int64_t col = 0; col < block_cols; ++col, widths += tile_rows) {
      const int tiles = col + 1 < block_cols ? format.block_cols / kTileCols : format.strip_tiles(col);
      for (int tile_row = 0; tile_row < tile_rows; ++tile_row) {
        const int width = widths[tile_row];
        if (width == 0) continue;
        const bool wanted = tile_row >= first && tile_row < last;
        for (int tile = 0; tile < tiles; ++tile) {
          if (wanted) add(width, codes, side, tile_col + tile, y + tile_row * (N * kTileRows));
          codes += kTileValues / 8 * width;
          // Both tiles of a strip share their group where it has 128 inputs.
          if (reader.tile_side != 0 || tile + 1 == tiles) side += reader.strip_side;
        }
      }
      tile_col += tiles;
    }
    for (int tile_row = first; tile_row < last; ++tile_row)
      store_tile_row(task, top + tile_row, first_x, count, y + tile_row * N * kTileRows);
  }
}

/// Blocks · N rows from `first_x` on, N at a time in each tile: as many as registers hold, and the weights are read
/// once.
template <class V, int N, int Blocks>
void run_rows(const PackedTask& task, const TileReader<V>& reader, std::int64_t first_x) {
  const std::int64_t block_bytes = N * (task.x->cols + 8 * task.x->groups());
  std::byte* const scratch = N == 1 ? nullptr : thread_scratch(static_cast<std::size_t>(Blocks * block_bytes));
  RowBlock x[Blocks];
  for (int block = 0; block < Blocks; ++block)
    x[block] = row_block<N>(*task.x, first_x + block * N, scratch + block * block_bytes);
  const bool half = reader.x_group == 32;
  const TileFunction<V>* functions = half ? kTileFunctions<V, N, true> : kTileFunctions<V, N, false>;
  const std::int64_t tile_scales = (half ? 2 : 1) * 2 * N;
  run_stripes<Blocks * N>(
      task, reader, first_x, Blocks * N,
      [&](int width, const std::byte* codes, const std::byte* side, std::int64_t tile_col, float* y) {
        for (int block = 0; block < Blocks; ++block)
          functions[width](reader, codes, side, x[block].values + tile_col * (kTileCols * N),
                           x[block].scales + tile_col * tile_scales, y + block * N * kTileRows);
      });
}

}  // namespace
}  // namespace scalebits

#include "kernels/cpu/packed_i8_walk.h"

namespace scalebits {
namespace {

/// One row of activations: whole stripes are walked where the format allows it.
template <class V>
void run_row(const PackedTask& task, const TileReader<V>& reader, std::int64_t x_row) {
  PackedTask before = task, after = task;
  if (can_walk(*task.weights)) {
    const std::int64_t first = divide_up(task.first_tile_row, kWalkRows),
                       last = std::max(first, task.last_tile_row / kWalkRows);
    before.last_tile_row = std::min(task.last_tile_row, first * kWalkRows);
    after.first_tile_row = std::max(task.first_tile_row, last * kWalkRows);
    walk_stripes<V>(task, x_row, first, last);
  } else {
    after.first_tile_row = after.last_tile_row;
  }
  for (const PackedTask& rest : {before, after})
    if (rest.first_tile_row < rest.last_tile_row) run_rows<V, 1, 1>(rest, reader, x_row);
}

template <class V>
void run_packed_i8(const PackedTask& task) {
  const TileReader<V> reader(*task.weights);
  std::int64_t row = 0;
  const auto runs = [&]<int N, int Blocks = 1>(std::integral_constant<int, N>,
                                               std::integral_constant<int, Blocks> = {}) {
    if constexpr (N <= V::kMaxRows)
      for (; task.x->rows - row >= Blocks * N; row += Blocks * N) run_rows<V, N, Blocks>(task, reader, row);
  };
  using std::integral_constant;
  runs(integral_constant<int, 8>{}, integral_constant<int, 2>{});
  runs(integral_constant<int, 4>{}, integral_constant<int, 3>{});
  runs(integral_constant<int, 8>{});
  runs(integral_constant<int, 4>{}, integral_constant<int, 2>{});
  runs(integral_constant<int, 4>{});
  runs(integral_constant<int, 3>{});
  runs(integral_constant<int, 2>{});
  for (; row < task.x->rows; ++row) run_row(task, reader, row);
}

}  // namespace
}  // namespace scalebits
