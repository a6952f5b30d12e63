// Exact products of packed tiles, written once against the vectors of an instruction set (V), lane r holding row r of
// the tile: codes become a panel [64 inputs][16 rows] of (code − zero) once for all rows of x, then rows of x go over
// it in passes that keep their sums in registers. Each sum: t = fma(code − zero, x, t) input by input from 0, for each
// group y = fma(t, scale, y).
#pragma once

#include "kernels/cpu/packed_f32_calls.h"

namespace scalebits {
namespace {

template <typename V>
struct PackedF32 {
  using Vec = typename V::Vec;
  using Words = typename V::Words;
  const PackedF32Call& call;

  /// Inputs 4·kQuad … of a plane of kBits bits, one in each byte, at their place kLow in the code.
  template <int kBits, int kLow, int kQuad>
  static Words field(const std::byte* plane) {
    constexpr int kFields = 8 / kBits;
    const Words vector = V::load_words(plane + kQuad / kFields * 64);
    const Words bits =
        V::mask(V::template shift_right<kQuad % kFields * kBits>(vector), ((1u << kBits) - 1) * 0x01010101u);
    return V::template shift_left<kLow>(bits);
  }
  template <int kWidth, int kQuad>
  static Words quad(const std::byte* codes) {
    constexpr int kFirst = kWidth >= 4 ? 4 : kWidth >= 2 ? 2 : 1;
    Words result = field<kFirst, 0, kQuad>(codes);
    if constexpr (kWidth == 8) result = V::either(result, field<4, 4, kQuad>(codes + 512));
    if constexpr (kWidth == 6 || kWidth == 7) result = V::either(result, field<2, 4, kQuad>(codes + 512));
    if constexpr (kWidth == 3 || kWidth == 5 || kWidth == 7)
      result = V::either(result, field<1, kWidth - 1, kQuad>(codes + 128 * (kWidth - 1)));
    return result;
  }

  template <int kWidth, int kQuad = 0>
  void fill(const PackedF32Tile& tile) const {
    const Vec zero = V::load(tile.zeros[call.groups == 2 && kQuad >= 8 ? 1 : 0]);
    const Words codes = quad<kWidth, kQuad>(tile.codes);
    float* to = call.panel + kQuad * 64;
    V::store(to, V::subtract(V::to_float(V::mask(codes, 0xff)), zero));
    V::store(to + 16, V::subtract(V::to_float(V::mask(V::template shift_right<8>(codes), 0xff)), zero));
    V::store(to + 32, V::subtract(V::to_float(V::mask(V::template shift_right<16>(codes), 0xff)), zero));
    V::store(to + 48, V::subtract(V::to_float(V::template shift_right<24>(codes)), zero));
    if constexpr (kQuad < 15) fill<kWidth, kQuad + 1>(tile);
  }
  void fill_panel(const PackedF32Tile& tile) const {
    switch (tile.width) {
      case 1: return fill<1>(tile);
      case 2: return fill<2>(tile);
      case 3: return fill<3>(tile);
      case 4: return fill<4>(tile);
      case 5: return fill<5>(tile);
      case 6: return fill<6>(tile);
      case 7: return fill<7>(tile);
      case 8: return fill<8>(tile);
    }
  }

  template <int N>
  void pass(const PackedF32Tile& tile, const float* x, float* y) const {
    const int inputs = 64 / call.groups;
    const float* panel = call.panel;
    for (int group = 0; group < call.groups; ++group) {
      Vec sums[N];
#pragma GCC unroll 16
      for (Vec& sum : sums) sum = V::broadcast(0);
      for (int input = 0; input < inputs; ++input, panel += 16, x += N) {
        const Vec weights = V::load(panel);
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) sums[i] = V::fma(weights, V::broadcast(x[i]), sums[i]);
      }
      const Vec scale = V::load(tile.scales[group]);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) V::store(y + i * 16, V::fma(sums[i], scale, V::load(y + i * 16)));
    }
  }
  template <int N = 1>
  void pass_of(std::int64_t n, const PackedF32Tile& tile, const float* x, float* y) const {
    if constexpr (N < V::kPassRows)
      if (n > N) return pass_of<N + 1>(n, tile, x, y);
    pass<N>(tile, x, y);
  }

  void run() const {
    for (std::int64_t i = 0; i < call.x_rows; ++i) V::store(call.y + i * 16, V::broadcast(0));
    for (std::int64_t t = 0; t < call.tile_count; ++t) {
      const PackedF32Tile& tile = call.tiles[t];
      fill_panel(tile);
      for (std::int64_t i = 0; i < call.x_rows; i += call.pass_rows) {
        const std::int64_t left = call.x_rows - i, n = left < call.pass_rows ? left : call.pass_rows;
        pass_of(n, tile, call.x + i * call.cols + tile.index * 64 * n, call.y + i * 16);
      }
    }
  }
};

}  // namespace
}  // namespace scalebits
