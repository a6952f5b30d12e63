// Rounding of keys and values with AVX2 and F16C, to the same bits.
#include "kernels/cpu/attention_calls.h"

#include <cfloat>
#include <cstring>
#include <immintrin.h>

namespace scalebits {
namespace {

/// Calls body(8 values, count, index), with zeros behind the last.
template <typename Body>
inline void for_each_eight(const float* from, std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) body(_mm256_loadu_ps(from + i), std::size_t{8}, i);
  if (i == count) return;
  float part[8] = {};
  std::memcpy(part, from + i, static_cast<std::size_t>(count - i) * sizeof(float));
  body(_mm256_loadu_ps(part), static_cast<std::size_t>(count - i), i);
}

inline __m256 magnitude(__m256 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }

}  // namespace

void store_f16_avx2(const float* from, std::int64_t count, std::byte* to) {
  for_each_eight(from, count, [&](__m256 values, std::size_t n, std::int64_t i) {
    const __m128i halves = _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    std::memcpy(to + 2 * i, &halves, 2 * n);
  });
}

void store_i8_avx2(const float* from, std::int64_t count, std::byte* to, float* scale) {
  __m256 most = _mm256_setzero_ps();
  for_each_eight(from, count,
                 [&](__m256 values, std::size_t, std::int64_t) { most = _mm256_max_ps(most, magnitude(values)); });
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, most);
  float largest = 0;
  for (const float lane : lanes) largest = lane > largest ? lane : largest;
  *scale = largest / 127;
  const float inverse = largest > 0 ? 127 / largest : 0;
  const __m256 factor = _mm256_set1_ps(inverse > FLT_MAX ? FLT_MAX : inverse);
  for_each_eight(from, count, [&](__m256 values, std::size_t n, std::int64_t i) {
    const __m256i wide = _mm256_cvtps_epi32(_mm256_mul_ps(values, factor));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    std::memcpy(to + i, &bytes, n);
  });
}

}  // namespace scalebits
