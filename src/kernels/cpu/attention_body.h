// Attention of some rows over the positions of one split, in blocks of 64 with a running maximum (the order of
// FlashAttention), written once against the vectors of an instruction set (V). A block of keys and values becomes f32
// once for all rows. Scores are the dense kernel's sums; values are added position by position.
#pragma once

#include "kernels/cpu/attention_calls.h"
#include "kernels/cpu/dense_body.h"

#include <cfloat>
#include <type_traits>

namespace scalebits {
namespace {

/// exp(x) for x <= 0, 0 below −87; within 2 units of the last place (Cephes' polynomial on |r| <= ln 2 / 2).
template <typename V>
inline typename V::Vec exp_negative(typename V::Vec x) {
  using Vec = typename V::Vec;
  constexpr float kLeast = -87;
  const Vec bounded = V::maximum(x, V::broadcast(kLeast));
  const Vec n = V::round(V::multiply(bounded, V::broadcast(1.44269504f)));
  Vec r = V::fma(n, V::broadcast(-0.693359375f), bounded);
  r = V::fma(n, V::broadcast(2.12194440e-4f), r);
  Vec p = V::broadcast(1.9875691500e-4f);
  constexpr float kRest[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  for (const float c : kRest) p = V::fma(p, r, V::broadcast(c));
  p = V::add(V::fma(p, V::multiply(r, r), r), V::broadcast(1));
  return V::zero_below(x, kLeast, V::multiply(p, V::power_of_two(n)));
}

template <typename V>
struct Attention {
  using Vec = typename V::Vec;
  static constexpr int W = V::kTileW, X = V::kTileX;
  static constexpr std::int64_t kBlock = kAttentionBlock;
  const AttentionCall& call;

  /// Of one block of an i8 cache.
  struct Scales {
    float keys[kBlock] = {}, values[kBlock] = {};
  };

  /// Keys or values of a block, f32 after widening, or as they are stored.
  template <typename T>
  struct Rows {
    const T* keys;
    const T* values;
    std::int64_t stride;
  };
  /// How far ahead of a stored cache memory is asked, for the first cache and for the second (docs/kernels.md).
  template <typename T>
  static constexpr int kAheadBytes = std::is_same<T, float>::value ? 0 : 2048;
  template <typename T>
  static constexpr int kFarBytes = std::is_same<T, float>::value ? 0 : 8192;

  template <typename T>
  Rows<T> stored(std::int64_t first) const {
    const std::int64_t at = first * call.head_dim;
    return {reinterpret_cast<const T*>(call.keys) + at, reinterpret_cast<const T*>(call.values) + at, call.head_dim};
  }

  /// `count` rows to f32, zeros up to the block's end.
  template <typename T>
  void widen(const T* from, std::int64_t count, float* to) const {
    const std::int64_t dim = call.head_dim, padded = call.padded_dim;
    for (std::int64_t p = 0; p < count; ++p, from += dim, to += padded) {
      std::int64_t d = 0;
      for (; d + 64 <= dim; d += 64)
        for (int v = 0; v < 64; v += 16) V::store(to + d + v, V::load(from + d + v));
      for (; d + 16 <= dim; d += 16) V::store(to + d, V::load(from + d));
      if (d < dim) V::store(to + d, load_part<V>(from + d, dim - d));
    }
    for (std::int64_t at = count * padded; at < kBlock * padded; at += 16, to += 16) V::store(to, V::broadcast(0));
  }
  template <typename T>
  Rows<float> widened(std::int64_t first, std::int64_t count) const {
    const Rows<T> rows = stored<T>(first);
    widen(rows.keys, count, call.key_block);
    widen(rows.values, count, call.value_block);
    return {call.key_block, call.value_block, call.padded_dim};
  }

  // ---- scores[row, position] = q · key ----
  // Tiles stay functions of their own: in a larger one, GCC keeps exp's constants in the registers that they need.
  template <typename T, int R, int N>
  [[gnu::noinline]] void score_tile(const Rows<T>& block, std::int64_t row, std::int64_t position) const {
    Vec sums[N][R];
#pragma GCC unroll 16
    for (auto& of_row : sums)
#pragma GCC unroll 16
      for (Vec& sum : of_row) sum = V::broadcast(0);
    add_products<V, T, R, N, kAheadBytes<T>, kFarBytes<T>>(block.keys + position * block.stride, block.stride,
                                                           call.q + row * call.padded_dim, call.padded_dim,
                                                           call.padded_dim, sums);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      float* to = call.scores + (row + i) * kBlock + position;
      if constexpr (R == W)
        V::store_sums(sums[i], to);
      else
        *to = V::sum(sums[i][0]);
    }
  }
  template <typename T, int N = 1>
  void score_rows(const Rows<T>& block, std::int64_t n, std::int64_t row, std::int64_t count) const {
    if constexpr (N < X)
      if (n > N) return score_rows<T, N + 1>(block, n, row, count);
    std::int64_t position = 0;
    for (; position + W <= count; position += W) score_tile<T, W, N>(block, row, position);
    for (; position < count; ++position) score_tile<T, 1, N>(block, row, position);
  }

  // ---- scores of one row → exp(score − largest), and the rescaling of what was summed before ----
  /// Returns the factor of the earlier sums.
  float soften(std::int64_t row, std::int64_t first, std::int64_t count, const Scales& scales) const {
    constexpr int kVecs = kBlock / 16;
    float* scores = call.scores + row * kBlock;
    Vec block[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      block[v] = V::load(scores + 16 * v);
      if (call.i8) block[v] = V::multiply(block[v], V::load(scales.keys + 16 * v));
    }
    const std::int64_t from = call.first[row] - first, last = call.last[row] - first, to = last < count ? last : count;
    if (from > 0 || to < kBlock) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) V::store(scores + 16 * v, block[v]);
      for (std::int64_t p = 0; p < kBlock; ++p)
        if (p < from || p >= to) scores[p] = -FLT_MAX;
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) block[v] = V::load(scores + 16 * v);
    }
    Vec most = V::broadcast(call.largest[row]);
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) most = V::maximum(most, block[v]);
    const float largest = V::largest(most);
    const Vec factor = exp_negative<V>(V::broadcast(call.largest[row] - largest));
    Vec total = V::multiply(V::load(call.total + row * 16), factor);
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      Vec p = exp_negative<V>(V::subtract(block[v], V::broadcast(largest)));
      total = V::add(total, p);
      if (call.i8) p = V::multiply(p, V::load(scales.values + 16 * v));
      V::store(scores + 16 * v, p);
    }
    V::store(call.total + row * 16, total);
    call.largest[row] = largest;
    float factors[16];
    V::store(factors, factor);
    return factors[0];
  }

  // ---- out[row, d] = factor · out + Σ p · value ----
  template <typename T, int N, int D>
  [[gnu::noinline]] void value_tile(const Rows<T>& block, std::int64_t row, std::int64_t d, std::int64_t count,
                                    const float* factors) const {
    float* out = call.out + row * call.padded_dim + d;
    Vec sums[N][D];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < D; ++v)
        sums[i][v] = V::multiply(V::broadcast(factors[i]), V::load(out + i * call.padded_dim + 16 * v));
    const T* from = block.values + d;
    const float* weights = call.scores + row * kBlock;
    for (std::int64_t p = 0; p < count; ++p, from += block.stride, ++weights) {
      for (int at = 0; at < kAheadBytes<T> && at < 16 * D * int{sizeof(T)}; at += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(from) + kAheadBytes<T> + at);
      for (int at = 0; at < kFarBytes<T> && at < 16 * D * int{sizeof(T)}; at += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(from) + kFarBytes<T> + at, 0, 2);
      Vec values[D];
#pragma GCC unroll 16
      for (int v = 0; v < D; ++v) values[v] = V::load(from + 16 * v);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const Vec weight = V::broadcast(weights[i * kBlock]);
#pragma GCC unroll 16
        for (int v = 0; v < D; ++v) sums[i][v] = V::fma(weight, values[v], sums[i][v]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < D; ++v) V::store(out + i * call.padded_dim + 16 * v, sums[i][v]);
  }
  template <typename T, int N = 1>
  void value_rows(const Rows<T>& block, std::int64_t n, std::int64_t row, std::int64_t count,
                  const float* factors) const {
    if constexpr (N < X)
      if (n > N) return value_rows<T, N + 1>(block, n, row, count, factors);
    std::int64_t d = 0;
    for (; d + 16 * W <= call.padded_dim; d += 16 * W) value_tile<T, N, W>(block, row, d, count, factors);
    for (; d < call.padded_dim; d += 16) value_tile<T, N, 1>(block, row, d, count, factors);
  }

  template <typename T>
  void add_block(const Rows<T>& block, std::int64_t first, std::int64_t count, const Scales& scales) const {
    for (std::int64_t row = 0; row < call.rows; row += X) {
      const std::int64_t n = call.rows - row < X ? call.rows - row : X;
      score_rows<T>(block, n, row, count);
      float factors[X];
      for (std::int64_t i = 0; i < n; ++i) factors[i] = soften(row + i, first, count, scales);
      value_rows<T>(block, n, row, count, factors);
    }
  }

  template <typename T>
  void run_as() const {
    for (std::int64_t row = 0; row < call.rows; ++row) {
      call.largest[row] = -FLT_MAX;
      V::store(call.total + row * 16, V::broadcast(0));
    }
    for (std::int64_t at = 0; at < call.rows * call.padded_dim; at += 16) V::store(call.out + at, V::broadcast(0));
    // What one tile of rows reads once is not worth writing down first.
    const bool as_stored = call.rows <= X && call.head_dim == call.padded_dim;
    Scales scales;
    for (std::int64_t first = call.begin / kBlock * kBlock; first < call.end; first += kBlock) {
      const std::int64_t count = call.end - first < kBlock ? call.end - first : kBlock;
      if (call.i8) {
        std::memcpy(scales.keys, call.key_scales + first, static_cast<std::size_t>(count) * sizeof(float));
        std::memcpy(scales.values, call.value_scales + first, static_cast<std::size_t>(count) * sizeof(float));
      }
      if (as_stored)
        add_block(stored<T>(first), first, count, scales);
      else
        add_block(widened<T>(first, count), first, count, scales);
    }
    for (std::int64_t row = 0; row < call.rows; ++row) call.total[row * 16] = V::sum(V::load(call.total + row * 16));
  }
  void run() const { call.i8 ? run_as<std::int8_t>() : run_as<F16>(); }
};

template <typename V>
inline void exp_all(const float* x, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; i += 16) V::store(out + i, exp_negative<V>(V::load(x + i)));
}

}  // namespace
}  // namespace scalebits
