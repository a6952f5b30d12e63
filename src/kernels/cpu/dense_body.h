// y = x Wᵀ for a row-major f32, f16 or bf16 W, written once against the vectors of an instruction set (V). One sum is
// always the same operations: lane k of sixteen adds inputs k, k + 16, …, one fma each; inputs beyond the last count as
// zeros; then V::sum's tree. Few rows of x read W where it lies, at the speed of memory; more rows turn panels of W to
// f32 once and multiply tiles of kTileW x kTileX rows in registers.
#pragma once

#include "kernels/cpu/dense_calls.h"

#include <cstring>

namespace scalebits {
namespace {

/// The first `count` of 16 elements, zeros behind.
template <typename V, typename T>
inline typename V::Vec load_part(const T* from, std::int64_t count) {
  T part[16] = {};
  std::memcpy(part, from, static_cast<std::size_t>(count) * sizeof(T));
  return V::load(part);
}

/// sums[i][r] += row r of W times row i of x, over `cols` inputs; asks memory for each row's bytes that far ahead,
/// kFarBytes for the second cache alone.
/// Loops over a tile are unrolled by pragma here and below: GCC keeps sums in registers only if it unrolls them early.
template <typename V, typename T, int W, int X, int kAheadBytes = 0, int kFarBytes = 0>
[[gnu::always_inline]] inline void add_products(const T* w, std::int64_t w_stride, const float* x,
                                                std::int64_t x_stride, std::int64_t cols,
                                                typename V::Vec (&sums)[X][W]) {
  using Vec = typename V::Vec;
  const std::int64_t rest = cols % 16, whole = cols - rest;
  for (std::int64_t k = 0; k < whole; k += 16) {
    Vec rows[W];
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) {
      if constexpr (kAheadBytes > 0)
        __builtin_prefetch(reinterpret_cast<const char*>(w + r * w_stride + k) + kAheadBytes);
      if constexpr (kFarBytes > 0)
        __builtin_prefetch(reinterpret_cast<const char*>(w + r * w_stride + k) + kFarBytes, 0, 2);
      rows[r] = V::load(w + r * w_stride + k);
    }
#pragma GCC unroll 16
    for (int i = 0; i < X; ++i) {
      const Vec inputs = V::load(x + i * x_stride + k);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) sums[i][r] = V::fma(rows[r], inputs, sums[i][r]);
    }
  }
  if (rest == 0) return;
  Vec rows[W];
#pragma GCC unroll 16
  for (int r = 0; r < W; ++r) rows[r] = load_part<V>(w + r * w_stride + whole, rest);
#pragma GCC unroll 16
  for (int i = 0; i < X; ++i) {
    const Vec inputs = load_part<V>(x + i * x_stride + whole, rest);
#pragma GCC unroll 16
    for (int r = 0; r < W; ++r) sums[i][r] = V::fma(rows[r], inputs, sums[i][r]);
  }
}

template <typename V, typename T>
struct Dense {
  using Vec = typename V::Vec;
  const DenseCall& call;

  const T* row(std::int64_t r) const { return reinterpret_cast<const T*>(call.weights) + r * call.cols; }
  float* y(std::int64_t i, std::int64_t r) const { return call.y + i * call.y_stride + r; }

  static constexpr int W = V::kTileW, X = V::kTileX;

  // ---- few rows of x: W where it lies, read in several streams, each a share of the rows ----
  template <int R, int N>
  void product(std::int64_t r, std::int64_t distance, std::int64_t i) const {
    Vec sums[N][R];
#pragma GCC unroll 16
    for (auto& row : sums)
#pragma GCC unroll 16
      for (Vec& sum : row) sum = V::broadcast(0);
    add_products<V, T, R, N, 2048, 8192>(row(r), distance * call.cols, call.x + i * call.x_stride, call.x_stride,
                                         call.cols, sums);
#pragma GCC unroll 16
    for (int at = 0; at < N; ++at) {
      float out[R];
      if constexpr (R == W)
        V::store_sums(sums[at], out);
      else
#pragma GCC unroll 16
        for (int of = 0; of < R; ++of) out[of] = V::sum(sums[at][of]);
#pragma GCC unroll 16
      for (int of = 0; of < R; ++of) *y(i + at, r + of * distance) = out[of];
    }
  }
  template <int R, int N = 1>
  void product_of(std::int64_t n, std::int64_t r, std::int64_t distance, std::int64_t i) const {
    if constexpr (N < X)
      if (n > N) return product_of<R, N + 1>(n, r, distance, i);
    product<R, N>(r, distance, i);
  }
  template <int R>
  void products(std::int64_t r, std::int64_t distance) const {
    const std::int64_t passes = (call.x_rows + X - 1) / X;
    for (std::int64_t pass = 0; pass < passes; ++pass) {  // of about the same number of rows
      const std::int64_t i = call.x_rows * pass / passes;
      product_of<R>(call.x_rows * (pass + 1) / passes - i, r, distance, i);
    }
  }
  template <int R>
  void stream() const {
    const std::int64_t distance = (call.last_row - call.first_row) / R;
    for (std::int64_t r = 0; r < distance; ++r) products<R>(call.first_row + r, distance);
    for (std::int64_t r = call.first_row + R * distance; r < call.last_row; ++r) products<1>(r, 0);
  }
  void few_rows() const { call.x_rows == 1 ? stream<V::kGemvRows>() : stream<W>(); }

  // ---- many rows of x ----
  // Both sides are laid out as a tile reads them: [tile of N rows][inputs in sixteens][row][16], zeros behind the last.
  template <typename From>
  static void arrange(const From* from, std::int64_t stride, std::int64_t rows, std::int64_t cols,
                      std::int64_t tile_rows, float* to, std::int64_t tile_stride) {
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int64_t first = i / tile_rows * tile_rows;
      const std::int64_t step = 16 * (rows - first < tile_rows ? rows - first : tile_rows);
      const From* row = from + i * stride;
      float* out = to + i / tile_rows * tile_stride + (i - first) * 16;
      std::int64_t k = 0;
      for (; k + 16 <= cols; k += 16, out += step) V::store(out, V::load(row + k));
      if (k < cols) V::store(out, load_part<V>(row + k, cols - k));
    }
  }

  /// A tile's sums over `sixteens` of inputs, continued from `kept` unless `first`; to y when `last`, else to `kept`.
  struct Stage {
    std::int64_t sixteens;
    bool first, last;
  };
  template <int R, int N>
  void tile(const float* w, const float* x, const Stage& stage, float* kept, std::int64_t r, std::int64_t i) const {
    Vec sums[N][R];
#pragma GCC unroll 16
    for (int at = 0; at < N; ++at)
#pragma GCC unroll 16
      for (int of = 0; of < R; ++of) sums[at][of] = stage.first ? V::broadcast(0) : V::load(kept + (at * R + of) * 16);
    for (std::int64_t step = 0; step < stage.sixteens; ++step, w += R * 16, x += N * 16) {
      Vec rows[R];
#pragma GCC unroll 16
      for (int of = 0; of < R; ++of) rows[of] = V::load(w + 16 * of);
#pragma GCC unroll 16
      for (int at = 0; at < N; ++at) {
        const Vec inputs = V::load(x + 16 * at);
#pragma GCC unroll 16
        for (int of = 0; of < R; ++of) sums[at][of] = V::fma(rows[of], inputs, sums[at][of]);
      }
    }
#pragma GCC unroll 16
    for (int at = 0; at < N; ++at) {
      if (!stage.last)
#pragma GCC unroll 16
        for (int of = 0; of < R; ++of) V::store(kept + (at * R + of) * 16, sums[at][of]);
      else if constexpr (R == W)
        V::store_sums(sums[at], y(i + at, r));
      else
#pragma GCC unroll 16
        for (int of = 0; of < R; ++of) *y(i + at, r + of) = V::sum(sums[at][of]);
    }
  }
  template <int R, int N = 1>
  void tile_of(std::int64_t n, const float* w, const float* x, const Stage& stage, float* kept, std::int64_t r,
               std::int64_t i) const {
    if constexpr (N < X)
      if (n > N) return tile_of<R, N + 1>(n, w, x, stage, kept, r, i);
    tile<R, N>(w, x, stage, kept, r, i);
  }

  template <int kRows>
  struct Height {
    constexpr operator int() const { return kRows; }
  };
  /// Rows [r, r + rows) of W, at most a panel, for rows [block, block + block_rows) of x, arranged in x_block.
  void panel(std::int64_t r, std::int64_t rows, std::int64_t block, std::int64_t block_rows) const {
    const std::int64_t whole = rows / W * W, padded = (call.cols + 15) / 16 * 16;
    const std::int64_t parts = (padded + kDensePanelCols - 1) / kDensePanelCols;  // of about the same number of inputs
    for (std::int64_t part = 0, k = 0, end; part < parts; ++part, k = end) {
      end = padded / 16 * (part + 1) / parts * 16;
      const std::int64_t cols = (end < call.cols ? end : call.cols) - k;
      const Stage stage{(end - k) / 16, part == 0, part + 1 == parts};
      const std::int64_t w_stride = end - k;
      arrange(row(r) + k, call.cols, whole, cols, W, call.w_panel, w_stride * W);
      arrange(row(r + whole) + k, call.cols, rows - whole, cols, 1, call.w_panel + whole * w_stride, w_stride);
      const auto multiply = [&](auto height, std::int64_t of, std::int64_t i) {
        const std::int64_t n = block_rows - i < X ? block_rows - i : X;
        tile_of<height>(n, call.w_panel + of * w_stride, call.x_block + i * padded + k * n, stage,
                        call.sums + (i * kDensePanelRows + of * n) * 16, r + of, block + i);
      };
      // Two tiles of x and one of W stay in the first cache.
      for (std::int64_t pair = 0; pair < block_rows; pair += 2 * X) {
        const std::int64_t pair_end = pair + 2 * X < block_rows ? pair + 2 * X : block_rows;
        for (std::int64_t of = 0; of < whole; of += W)
          for (std::int64_t i = pair; i < pair_end; i += X) multiply(Height<W>{}, of, i);
        for (std::int64_t of = whole; of < rows; ++of)
          for (std::int64_t i = pair; i < pair_end; i += X) multiply(Height<1>{}, of, i);
      }
    }
  }
  void many_rows() const {
    const std::int64_t padded = (call.cols + 15) / 16 * 16;
    for (std::int64_t block = 0; block < call.x_rows; block += kDenseBlockRows) {
      const std::int64_t left = call.x_rows - block, n = left < kDenseBlockRows ? left : kDenseBlockRows;
      arrange(call.x + block * call.x_stride, call.x_stride, n, call.cols, X, call.x_block, padded * X);
      for (std::int64_t r = call.first_row; r < call.last_row; r += kDensePanelRows) {
        const std::int64_t rows = call.last_row - r;
        panel(r, rows < kDensePanelRows ? rows : kDensePanelRows, block, n);
      }
    }
  }

  void run() const { call.x_rows <= kDenseFewRows ? few_rows() : many_rows(); }
};

template <typename V>
inline void run_dense(const DenseCall& call) {
  switch (call.element) {
    case DenseElement::f32: return Dense<V, float>{call}.run();
    case DenseElement::f16: return Dense<V, F16>{call}.run();
    case DenseElement::bf16: return Dense<V, BF16>{call}.run();
  }
}

}  // namespace
}  // namespace scalebits
