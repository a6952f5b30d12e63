// Attention of some rows over the positions of one split, in blocks of 64 with a running maximum (the order of
// FlashAttention), written once against the vectors of an instruction set (V). A block of keys and values becomes f32
// once for all rows. Scores are the dense kernel's sums; values are added position by position.
#pragma once

#include "kernels/cpu/attention_calls.h"
#include "kernels/cpu/dense_body.h"

#include <cfloat>

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

  /// Positions [first, first + count) to f32, zeros up to the block's end.
  template <typename T>
  void widen(const std::byte* from, std::int64_t first, std::int64_t count, float* to) const {
    const std::int64_t dim = call.head_dim, padded = call.padded_dim;
    for (std::int64_t p = 0; p < count; ++p) {
      const T* row = reinterpret_cast<const T*>(from) + (first + p) * dim;
      std::int64_t d = 0;
      for (; d + 16 <= dim; d += 16) V::store(to + p * padded + d, V::load(row + d));
      if (d < dim) V::store(to + p * padded + d, load_part<V>(row + d, dim - d));
    }
    for (std::int64_t at = count * padded; at < kBlock * padded; at += 16) V::store(to + at, V::broadcast(0));
  }
  void widen_block(std::int64_t first, std::int64_t count) const {
    if (call.i8) {
      widen<std::int8_t>(call.keys, first, count, call.key_block);
      widen<std::int8_t>(call.values, first, count, call.value_block);
    } else {
      widen<F16>(call.keys, first, count, call.key_block);
      widen<F16>(call.values, first, count, call.value_block);
    }
  }

  // ---- scores[row, position] = q · key, of `count` positions rounded up to W ----
  template <int N>
  void score_tile(std::int64_t row, std::int64_t position) const {
    Vec sums[N][W];
    for (int i = 0; i < N; ++i)
      for (Vec& sum : sums[i]) sum = V::broadcast(0);
    add_products<V, float, W, N>(call.key_block + position * call.padded_dim, call.padded_dim,
                                 call.q + row * call.padded_dim, call.padded_dim, call.padded_dim, sums);
    for (int i = 0; i < N; ++i) V::store_sums(sums[i], call.scores + (row + i) * kBlock + position);
  }
  template <int N = 1>
  void score_rows(std::int64_t n, std::int64_t row, std::int64_t count) const {
    if constexpr (N < X)
      if (n > N) return score_rows<N + 1>(n, row, count);
    for (std::int64_t position = 0; position < count; position += W) score_tile<N>(row, position);
  }

  // ---- scores of one row → exp(score − largest), and the rescaling of what was summed before ----
  /// Returns the factor of the earlier sums.
  float soften(std::int64_t row, std::int64_t first, std::int64_t count) const {
    float* scores = call.scores + row * kBlock;
    const std::int64_t from = call.first[row] - first, to = call.last[row] - first;
    for (std::int64_t p = 0; p < kBlock; ++p)
      if (p < from || p >= to || p >= count) scores[p] = -FLT_MAX;
    Vec block[kBlock / 16];
    Vec most = V::broadcast(call.largest[row]);
    for (int v = 0; v < kBlock / 16; ++v) {
      block[v] = V::load(scores + 16 * v);
      most = V::maximum(most, block[v]);
    }
    const float largest = V::largest(most);
    const Vec factor = exp_negative<V>(V::subtract(V::broadcast(call.largest[row]), V::broadcast(largest)));
    Vec total = V::multiply(V::load(call.total + row * 16), factor);
    for (int v = 0; v < kBlock / 16; ++v) {
      Vec p = exp_negative<V>(V::subtract(block[v], V::broadcast(largest)));
      total = V::add(total, p);
      V::store(scores + 16 * v, p);
    }
    V::store(call.total + row * 16, total);
    call.largest[row] = largest;
    float factors[16];
    V::store(factors, factor);
    return factors[0];
  }

  // ---- out[row, d] = factor · out + Σ p · value ----
  template <int N, int D>
  void value_tile(std::int64_t row, std::int64_t d, std::int64_t count, const float* factors) const {
    const std::int64_t padded = call.padded_dim;
    Vec sums[N][D];
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < D; ++v)
        sums[i][v] = V::multiply(V::broadcast(factors[i]), V::load(call.out + (row + i) * padded + d + 16 * v));
    for (std::int64_t p = 0; p < count; ++p) {
      Vec values[D];
      for (int v = 0; v < D; ++v) values[v] = V::load(call.value_block + p * padded + d + 16 * v);
      for (int i = 0; i < N; ++i) {
        const Vec weight = V::broadcast(call.scores[(row + i) * kBlock + p]);
        for (int v = 0; v < D; ++v) sums[i][v] = V::fma(weight, values[v], sums[i][v]);
      }
    }
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < D; ++v) V::store(call.out + (row + i) * padded + d + 16 * v, sums[i][v]);
  }
  template <int N = 1>
  void value_rows(std::int64_t n, std::int64_t row, std::int64_t count, const float* factors) const {
    if constexpr (N < X)
      if (n > N) return value_rows<N + 1>(n, row, count, factors);
    std::int64_t d = 0;
    for (; d + 16 * W <= call.padded_dim; d += 16 * W) value_tile<N, W>(row, d, count, factors);
    for (; d < call.padded_dim; d += 16) value_tile<N, 1>(row, d, count, factors);
  }

  void run() const {
    for (std::int64_t row = 0; row < call.rows; ++row) {
      call.largest[row] = -FLT_MAX;
      V::store(call.total + row * 16, V::broadcast(0));
    }
    for (std::int64_t at = 0; at < call.rows * call.padded_dim; at += 16) V::store(call.out + at, V::broadcast(0));
    for (std::int64_t first = call.begin / kBlock * kBlock; first < call.end; first += kBlock) {
      const std::int64_t count = call.end - first < kBlock ? call.end - first : kBlock;
      widen_block(first, count);
      for (std::int64_t row = 0; row < call.rows; row += X) {
        const std::int64_t n = call.rows - row < X ? call.rows - row : X;
        score_rows(n, row, count);
        float factors[X];
        for (std::int64_t i = 0; i < n; ++i) {
          float* scores = call.scores + (row + i) * kBlock;
          if (call.i8)
            for (std::int64_t p = 0; p < count; ++p) scores[p] *= call.key_scales[first + p];
          factors[i] = soften(row + i, first, count);
          if (call.i8)
            for (std::int64_t p = 0; p < count; ++p) scores[p] *= call.value_scales[first + p];
        }
        value_rows(n, row, count, factors);
      }
    }
    for (std::int64_t row = 0; row < call.rows; ++row) call.total[row * 16] = V::sum(V::load(call.total + row * 16));
  }
};

template <typename V>
inline void exp_all(const float* x, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; i += 16) V::store(out + i, exp_negative<V>(V::load(x + i)));
}

}  // namespace
}  // namespace scalebits
