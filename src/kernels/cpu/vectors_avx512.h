// The operations of vectors_scalar.h in one AVX-512 register (F, BW, VL, DQ).
#pragma once

#include "kernels/cpu/float_storage.h"

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace scalebits {
namespace {

struct Avx512Vectors {
  using Vec = __m512;
  using Words = __m512i;
  static constexpr int kTileW = 4, kTileX = 6, kGemvRows = 4, kPassRows = 14;

  static Vec load(const float* from) { return _mm512_loadu_ps(from); }
  static Vec load(const F16* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Vec load(const BF16* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static Vec load(const std::int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static void store(float* to, Vec a) { _mm512_storeu_ps(to, a); }

  static Vec broadcast(float value) { return _mm512_set1_ps(value); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec subtract(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec multiply(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vec power_of_two(Vec n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  static Vec zero_below(Vec x, float limit, Vec value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GE_OQ), value);
  }

  static float sum(Vec a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(Vec a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static void store_sums(const Vec* a, float* to) {
    const auto pair = [](Vec x, Vec y) {  // of 128-bit lanes: x0 + x2, x1 + x3, y0 + y2, y1 + y3
      return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
    };
    const Vec ab = pair(a[0], a[1]), cd = pair(a[2], a[3]);
    const Vec four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    const Vec two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    const Vec one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one)));
  }

  static Words load_words(const std::byte* from) { return _mm512_loadu_si512(from); }
  template <int kShift>
  static Words shift_right(Words a) {
    return _mm512_srli_epi32(a, kShift);
  }
  template <int kShift>
  static Words shift_left(Words a) {
    return _mm512_slli_epi32(a, kShift);
  }
  static Words mask(Words a, std::uint32_t bits) {
    return _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(bits)));
  }
  static Words either(Words a, Words b) { return _mm512_or_si512(a, b); }
  static Vec to_float(Words a) { return _mm512_cvtepi32_ps(a); }
};

}  // namespace
}  // namespace scalebits
