// The operations of vectors_scalar.h in two AVX2 registers, lanes 0 to 7 and 8 to 15 (with FMA and F16C).
#pragma once

#include "kernels/cpu/float_storage.h"

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace scalebits {
namespace {

struct Avx2Vectors {
  struct Vec {
    __m256 low, high;
  };
  struct Words {
    __m256i low, high;
  };
  static constexpr int kTileW = 2, kTileX = 3, kGemvRows = 4, kPassRows = 5;

  static __m256i load_half(const void* from, int half) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from) + half);
  }
  static __m128i load_quarter(const void* from, int quarter) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from) + quarter);
  }
  static Vec load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static Vec load(const F16* from) {
    return {_mm256_cvtph_ps(load_quarter(from, 0)), _mm256_cvtph_ps(load_quarter(from, 1))};
  }
  static Vec load(const BF16* from) {
    const auto widen = [](__m128i bits) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    };
    return {widen(load_quarter(from, 0)), widen(load_quarter(from, 1))};
  }
  static Vec load(const std::int8_t* from) {
    const __m128i bytes = load_quarter(from, 0);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
  }
  static void store(float* to, const Vec& a) {
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
  }

  static Vec broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Vec fma(const Vec& a, const Vec& b, const Vec& c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Vec add(const Vec& a, const Vec& b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Vec subtract(const Vec& a, const Vec& b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static Vec multiply(const Vec& a, const Vec& b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Vec maximum(const Vec& a, const Vec& b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static Vec round(const Vec& a) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, kNearest), _mm256_round_ps(a.high, kNearest)};
  }
  static Vec power_of_two(const Vec& n) {
    const auto power = [](__m256 half) {
      const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127));
      return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    };
    return {power(n.low), power(n.high)};
  }
  static Vec zero_below(const Vec& x, float limit, const Vec& value) {
    const __m256 limits = _mm256_set1_ps(limit);
    return {_mm256_and_ps(_mm256_cmp_ps(x.low, limits, _CMP_GE_OQ), value.low),
            _mm256_and_ps(_mm256_cmp_ps(x.high, limits, _CMP_GE_OQ), value.high)};
  }

  static float sum(const Vec& a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(const Vec& a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static void store_sums(const Vec* a, float* to) {
    const __m256 x = _mm256_add_ps(a[0].low, a[0].high), y = _mm256_add_ps(a[1].low, a[1].high);
    const __m256 four = _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
    const __m256 two = _mm256_add_ps(four, _mm256_permute_ps(four, 0x4e));
    const __m256 one = _mm256_add_ps(two, _mm256_permute_ps(two, 0xb1));
    to[0] = _mm256_cvtss_f32(one);
    to[1] = _mm_cvtss_f32(_mm256_extractf128_ps(one, 1));
  }

  static Words load_words(const std::byte* from) { return {load_half(from, 0), load_half(from, 1)}; }
  template <int kShift>
  static Words shift_right(const Words& a) {
    return {_mm256_srli_epi32(a.low, kShift), _mm256_srli_epi32(a.high, kShift)};
  }
  template <int kShift>
  static Words shift_left(const Words& a) {
    return {_mm256_slli_epi32(a.low, kShift), _mm256_slli_epi32(a.high, kShift)};
  }
  static Words mask(const Words& a, std::uint32_t bits) {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
    return {_mm256_and_si256(a.low, all), _mm256_and_si256(a.high, all)};
  }
  static Words either(const Words& a, const Words& b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
  }
  static Vec to_float(const Words& a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
};

}  // namespace
}  // namespace scalebits
