// The portable half of the exact packed kernels: finds the tiles of 16 rows of W, reads their scales and zeros, cuts x
// into blocks that stay in cache, and stores the results.
#include "kernels/cpu/packed_f32.h"

#include "kernels/cpu/packed_f32_calls.h"

namespace scalebits {
namespace {

struct PackedF32Set {
  void (*body)(const PackedF32Call&);
  std::int64_t most_pass_rows;
};

/// Rows of x worked on together: about 2 MB of them, but enough to pay for decoding W once per block.
std::int64_t block_rows(std::int64_t cols) { return std::clamp<std::int64_t>((1 << 19) / cols, 112, 224); }

/// Scales and zeros of the tile, of `codes` at `stream` (16 scale codes, then 16 zero codes).
void read_side(const PackedWeights& weights, const std::byte* stream, int width, float* scales, float* zeros) {
  const SideFormat& side = weights.format().side;
  std::array<std::uint8_t, 16> scale_codes, zero_codes;
  decode_side_codes(side.scale_bits, {stream, static_cast<std::size_t>(2 * side.scale_bits)}, scale_codes);
  decode_side_codes(side.zero_bits, {stream + 2 * side.scale_bits, static_cast<std::size_t>(2 * side.zero_bits)},
                    zero_codes);
  for (std::size_t row = 0; row < 16; ++row) {
    scales[row] = weights.side().scale(scale_codes[row], width);
    zeros[row] = weights.side().zero(zero_codes[row], width);
  }
}

/// The stored tiles of a tile row, left to right; returns how many.
std::int64_t find_tiles(const PackedWeights& weights, std::int64_t tile_row, PackedF32Tile* tiles) {
  const MatrixFormat& format = weights.format();
  const std::byte* blob = weights.matrix().blob().data();
  const int groups = kTileCols / weights.activation_group();
  std::int64_t count = 0;
  for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
    const StripLocation at = weights.matrix().layout().strip(tile_row, block_col);
    if (at.width == 0) continue;
    for (int t = 0; t < at.tiles; ++t) {
      PackedF32Tile& tile = tiles[count++];
      tile.codes = blob + at.codes_offset + static_cast<std::uint64_t>(t) * tile_bytes(at.width);
      tile.width = at.width;
      tile.index = block_col * (format.block_cols / kTileCols) + t;
      for (int group = 0; group < groups; ++group) {
        const int stored = (t * kTileCols + group * weights.activation_group()) / format.group_cols;
        read_side(weights, blob + at.side_offset + static_cast<std::uint64_t>(stored * format.group_side_bytes()),
                  at.width, tile.scales[group], tile.zeros[group]);
      }
    }
  }
  return count;
}

/// Rows [first, first + n) of x as [pass][input][row of the pass].
void arrange(const Activations& x, std::int64_t first, std::int64_t n, std::int64_t pass_rows, float* out) {
  for (std::int64_t i = 0; i < n; i += pass_rows) {
    const std::int64_t rows = std::min(pass_rows, n - i);
    float* pass = out + i * x.cols;
    const float* from = x.f32.data() + (first + i) * x.cols;
    for (std::int64_t col = 0; col < x.cols; ++col)
      for (std::int64_t row = 0; row < rows; ++row) *pass++ = from[row * x.cols + col];
  }
}

/// Results [n, 16] of a tile row to their places in y.
void store(const PackedWeights& weights, std::int64_t tile_row, const float* results, std::int64_t n, float* y,
           std::int64_t y_stride) {
  const std::int64_t first = tile_row * kTileRows,
                     rows = std::min<std::int64_t>(kTileRows, weights.format().rows - first);
  for (std::int64_t i = 0; i < n; ++i) std::copy_n(results + i * kTileRows, rows, y + i * y_stride + first);
}

void run(const PackedTask& task, const PackedF32Set& set) {
  const PackedWeights& weights = *task.weights;
  const Activations& x = *task.x;
  SCALEBITS_ASSERT(x.format == ActivationFormat::f32 &&
                   x.cols == divide_up(weights.format().cols, kTileCols) * kTileCols);
  thread_local AlignedBuffer<float> x_buffer, y_buffer;
  thread_local std::vector<PackedF32Tile> tiles;
  alignas(64) float panel[kTileValues];
  const std::int64_t block = std::min(x.rows, block_rows(x.cols));
  x_buffer.reserve(static_cast<std::size_t>(block * x.cols));
  y_buffer.reserve(static_cast<std::size_t>(block * kTileRows));
  tiles.resize(static_cast<std::size_t>(x.cols / kTileCols));
  for (std::int64_t first = 0; first < x.rows; first += block) {
    const std::int64_t n = std::min(block, x.rows - first);
    const std::int64_t pass_rows = divide_up(n, divide_up(n, set.most_pass_rows));
    arrange(x, first, n, pass_rows, x_buffer.data());
    for (std::int64_t tile_row = task.first_tile_row; tile_row < task.last_tile_row; ++tile_row) {
      set.body({.tiles = tiles.data(),
                .tile_count = find_tiles(weights, tile_row, tiles.data()),
                .groups = kTileCols / weights.activation_group(),
                .x = x_buffer.data(),
                .x_rows = n,
                .pass_rows = pass_rows,
                .cols = x.cols,
                .panel = panel,
                .y = y_buffer.data()});
      store(weights, tile_row, y_buffer.data(), n, task.y + first * task.y_stride, task.y_stride);
    }
  }
}

}  // namespace

void run_packed_f32_scalar(const PackedTask& task) { run(task, {&packed_f32_scalar, kPackedF32PassScalar}); }
void run_packed_f32_avx2(const PackedTask& task) { run(task, {&packed_f32_avx2, kPackedF32PassAvx2}); }
void run_packed_f32_avx512(const PackedTask& task) { run(task, {&packed_f32_avx512, kPackedF32PassAvx512}); }

}  // namespace scalebits
