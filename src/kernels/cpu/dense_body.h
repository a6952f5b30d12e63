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

/// sums[r · X + i] += W rows r times x rows i, over `cols` inputs.
template <typename V, typename T, int W, int X>
inline void add_products(const T* w, std::int64_t w_stride, const float* x, std::int64_t x_stride, std::int64_t cols,
                         typename V::Vec (&sums)[X][W]) {
  using Vec = typename V::Vec;
  const std::int64_t whole = cols / 16 * 16;
  const auto step = [&](const auto& load_w, const auto& load_x) {
    Vec rows[W];
    for (int r = 0; r < W; ++r) rows[r] = load_w(w + r * w_stride);
    for (int i = 0; i < X; ++i) {
      const Vec inputs = load_x(x + i * x_stride);
      for (int r = 0; r < W; ++r) sums[i][r] = V::fma(rows[r], inputs, sums[i][r]);
    }
  };
  for (std::int64_t k = 0; k < whole; k += 16)
    step([&](const T* from) { return V::load(from + k); }, [&](const float* from) { return V::load(from + k); });
  if (whole < cols) {
    const std::int64_t rest = cols - whole;
    step([&](const T* from) { return load_part<V>(from + whole, rest); },
         [&](const float* from) { return load_part<V>(from + whole, rest); });
  }
}

template <typename V, typename T>
struct Dense {
  using Vec = typename V::Vec;
  const DenseCall& call;

  const T* row(std::int64_t r) const { return reinterpret_cast<const T*>(call.weights) + r * call.cols; }
  float* y(std::int64_t i, std::int64_t r) const { return call.y + i * call.y_stride + r; }

  static constexpr int W = V::kTileW, X = V::kTileX;

  // ---- few rows of x ----
  template <int R, int N>
  void product(std::int64_t r, std::int64_t i) const {
    Vec sums[N][R];
    for (int at = 0; at < N; ++at)
      for (Vec& sum : sums[at]) sum = V::broadcast(0);
    add_products<V, T, R, N>(row(r), call.cols, call.x + i * call.x_stride, call.x_stride, call.cols, sums);
    for (int at = 0; at < N; ++at)
      for (int of = 0; of < R; ++of) *y(i + at, r + of) = V::sum(sums[at][of]);
  }
  template <int N>
  void few_rows() const {
    constexpr int kRows = N == 1 ? V::kGemvRows : W;
    std::int64_t r = call.first_row;
    for (; r + kRows <= call.last_row; r += kRows) product<kRows, N>(r, 0);
    for (; r < call.last_row; ++r) product<1, N>(r, 0);
  }

  // ---- many rows of x ----
  void fill_panel(std::int64_t r, std::int64_t rows, std::int64_t k, std::int64_t cols) const {
    const std::int64_t padded_rows = (rows + W - 1) / W * W;
    for (std::int64_t i = 0; i < padded_rows; ++i) {
      float* to = call.panel + i * kDensePanelCols;
      if (i >= rows) {
        std::memset(to, 0, static_cast<std::size_t>(cols + 15) / 16 * 64);
        continue;
      }
      const T* from = row(r + i) + k;
      std::int64_t at = 0;
      for (; at + 16 <= cols; at += 16) V::store(to + at, V::load(from + at));
      if (at < cols) V::store(to + at, load_part<V>(from + at, cols - at));
    }
  }

  template <int N>
  static void tile(const float* w, const float* x, std::int64_t x_stride, std::int64_t cols, bool first, float* kept) {
    Vec sums[N][W];
    for (int i = 0; i < N; ++i)
      for (int r = 0; r < W; ++r) sums[i][r] = first ? V::broadcast(0) : V::load(kept + (i * W + r) * 16);
    add_products<V, float, W, N>(w, kDensePanelCols, x, x_stride, cols, sums);
    for (int i = 0; i < N; ++i)
      for (int r = 0; r < W; ++r) V::store(kept + (i * W + r) * 16, sums[i][r]);
  }
  template <int N = 1>
  static void tile_of(std::int64_t n, const float* w, const float* x, std::int64_t x_stride, std::int64_t cols,
                      bool first, float* kept) {
    if constexpr (N < X)
      if (n > N) return tile_of<N + 1>(n, w, x, x_stride, cols, first, kept);
    tile<N>(w, x, x_stride, cols, first, kept);
  }

  /// One panel of W rows for one block of x rows; the sums of row quads r and x rows i lie at [r / W, i, W].
  void panel(std::int64_t r, std::int64_t rows, std::int64_t block, std::int64_t block_rows) const {
    const auto kept = [&](std::int64_t quad, std::int64_t i) {
      return call.sums + (quad * kDenseBlockRows + i) * W * 16;
    };
    const std::int64_t quads = (rows + W - 1) / W;
    for (std::int64_t k = 0; k < call.cols; k += kDensePanelCols) {
      const std::int64_t cols = call.cols - k < kDensePanelCols ? call.cols - k : kDensePanelCols;
      fill_panel(r, rows, k, cols);
      for (std::int64_t i = 0; i < block_rows; i += X)
        for (std::int64_t quad = 0; quad < quads; ++quad)
          tile_of(block_rows - i, call.panel + quad * W * kDensePanelCols, call.x + (block + i) * call.x_stride + k,
                  call.x_stride, cols, k == 0, kept(quad, i));
    }
    for (std::int64_t i = 0; i < block_rows; ++i)
      for (std::int64_t quad = 0; quad < quads; ++quad) {
        Vec sums[W];
        for (int of = 0; of < W; ++of) sums[of] = V::load(kept(quad, i) + of * 16);
        float out[W];
        V::store_sums(sums, out);
        for (int of = 0; of < W && quad * W + of < rows; ++of) *y(block + i, r + quad * W + of) = out[of];
      }
  }
  void many_rows() const {
    for (std::int64_t block = 0; block < call.x_rows; block += kDenseBlockRows) {
      const std::int64_t left = call.x_rows - block;
      for (std::int64_t r = call.first_row; r < call.last_row; r += kDensePanelRows) {
        const std::int64_t rows = call.last_row - r;
        panel(r, rows < kDensePanelRows ? rows : kDensePanelRows, block,
              left < kDenseBlockRows ? left : kDenseBlockRows);
      }
    }
  }

  template <int N = 1>
  void run() const {
    if (call.x_rows == N) return few_rows<N>();
    if constexpr (N < X)
      run<N + 1>();
    else
      many_rows();
  }
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
