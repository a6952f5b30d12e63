// Sixteen floats, or sixteen 32-bit words, as plain arrays: what the bodies of dense, packed_f32 and attention kernels
// are written against (*_body.h), and the oracle of vectors_avx2.h and vectors_avx512.h, which do the same operations
// with the same roundings. All three lie in an unnamed namespace, so that no code leaves the file that includes them.
#pragma once

#include "core/float_types.h"
#include "kernels/cpu/float_storage.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace scalebits {
namespace {

struct ScalarVectors {
  struct Vec {
    float v[16];
  };
  struct Words {
    std::uint32_t v[16];
  };
  // Rows of W and of x in one register tile, and rows of W when only one row of x is read (dense_body.h); rows of x in
  // one pass of packed_f32_body.h.
  static constexpr int kTileW = 4, kTileX = 6, kGemvRows = 4, kPassRows = 8;

  template <typename Function>
  static Vec each(const Function& function) {
    Vec result;
    for (int i = 0; i < 16; ++i) result.v[i] = function(i);
    return result;
  }

  template <typename T>
  static T element(const T* from, int i) {
    T value;
    std::memcpy(&value, from + i, sizeof value);
    return value;
  }
  static Vec load(const float* from) {
    return each([&](int i) { return element(from, i); });
  }
  static Vec load(const F16* from) {
    return each([&](int i) { return f16_to_f32(element(from, i).bits); });
  }
  static Vec load(const BF16* from) {
    return each([&](int i) { return bf16_to_f32(element(from, i).bits); });
  }
  static Vec load(const std::int8_t* from) {
    return each([&](int i) { return static_cast<float>(from[i]); });
  }
  static void store(float* to, const Vec& a) { std::memcpy(to, a.v, sizeof a.v); }

  static Vec broadcast(float value) {
    return each([&](int) { return value; });
  }
  static Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static Vec add(const Vec& a, const Vec& b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Vec subtract(const Vec& a, const Vec& b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
  }
  static Vec multiply(const Vec& a, const Vec& b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
  }
  static Vec maximum(const Vec& a, const Vec& b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  /// The nearest integer, even in ties.
  static Vec round(const Vec& a) {
    return each([&](int i) { return std::nearbyint(a.v[i]); });
  }
  /// 2^n for integers −126 <= n <= 127.
  static Vec power_of_two(const Vec& n) {
    return each(
        [&](int i) { return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<int>(n.v[i]) + 127) << 23); });
  }
  /// value where x >= limit, else 0.
  static Vec zero_below(const Vec& x, float limit, const Vec& value) {
    return each([&](int i) { return x.v[i] >= limit ? value.v[i] : 0.0f; });
  }

  /// The fixed tree: lane k + lane k + 8, then + 4, + 2, + 1.
  static float sum(const Vec& a) {
    float t[8];
    for (int i = 0; i < 8; ++i) t[i] = a.v[i] + a.v[i + 8];
    for (int i = 0; i < 4; ++i) t[i] += t[i + 4];
    return (t[0] + t[2]) + (t[1] + t[3]);
  }
  static float largest(const Vec& a) {
    float result = a.v[0];
    for (int i = 1; i < 16; ++i) result = a.v[i] > result ? a.v[i] : result;
    return result;
  }
  /// to[r] = sum(a[r]) for the kTileW rows of a tile.
  static void store_sums(const Vec* a, float* to) {
    for (int r = 0; r < kTileW; ++r) to[r] = sum(a[r]);
  }

  // Words.
  static Words load_words(const std::byte* from) {
    Words result;
    std::memcpy(result.v, from, sizeof result.v);
    return result;
  }
  template <int kShift>
  static Words shift_right(const Words& a) {
    Words result;
    for (int i = 0; i < 16; ++i) result.v[i] = a.v[i] >> kShift;
    return result;
  }
  template <int kShift>
  static Words shift_left(const Words& a) {
    Words result;
    for (int i = 0; i < 16; ++i) result.v[i] = a.v[i] << kShift;
    return result;
  }
  static Words mask(const Words& a, std::uint32_t bits) {
    Words result;
    for (int i = 0; i < 16; ++i) result.v[i] = a.v[i] & bits;
    return result;
  }
  static Words either(const Words& a, const Words& b) {
    Words result;
    for (int i = 0; i < 16; ++i) result.v[i] = a.v[i] | b.v[i];
    return result;
  }
  /// Of words below 2^24.
  static Vec to_float(const Words& a) {
    return each([&](int i) { return static_cast<float>(static_cast<std::int32_t>(a.v[i])); });
  }
};

}  // namespace
}  // namespace scalebits
