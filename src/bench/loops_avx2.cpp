// Compiled for AVX2.
#include "bench/machine_loops.h"

#include <immintrin.h>

namespace scalebits {

std::uint64_t read_avx2(const std::byte* data, std::size_t bytes) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (std::size_t i = 0; i < bytes; i += 256) {
    const std::byte* const at = data + i;
    for (int line = 0; line < 4; ++line)
      _mm_prefetch(reinterpret_cast<const char*>(at) + 4096 + 64 * line, _MM_HINT_T0);
    for (int k = 0; k < 8; ++k)
      sums[k] = _mm256_or_si256(sums[k], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32 * k)));
  }
  for (int k = 1; k < 8; ++k) sums[0] = _mm256_or_si256(sums[0], sums[k]);
  return static_cast<std::uint64_t>(_mm256_extract_epi64(sums[0], 0) | _mm256_extract_epi64(sums[0], 1) |
                                    _mm256_extract_epi64(sums[0], 2) | _mm256_extract_epi64(sums[0], 3));
}

std::int32_t peak_avx2(std::int64_t rounds) {
  __m256i sums[8], codes = _mm256_set1_epi8(3);
  const __m256i values = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (std::int64_t round = 0; round < rounds; ++round)
    for (__m256i& sum : sums) {
      asm volatile("" : "+x"(codes));  // or the product would be made once
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, values), ones));
    }
  for (int k = 1; k < 8; ++k) sums[0] = _mm256_add_epi32(sums[0], sums[k]);
  return _mm256_extract_epi32(sums[0], 0);
}

}  // namespace scalebits
