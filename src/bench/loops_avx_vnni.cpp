// Compiled for AVX2 and AVX-VNNI.
#include "bench/machine_loops.h"

#include <immintrin.h>

namespace scalebits {

std::int32_t peak_avx_vnni(std::int64_t rounds) {
  __m256i sums[12];
  const __m256i codes = _mm256_set1_epi8(3), values = _mm256_set1_epi8(-5);
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (std::int64_t round = 0; round < rounds; ++round)
    for (__m256i& sum : sums) sum = _mm256_dpbusd_avx_epi32(sum, codes, values);
  for (int k = 1; k < 12; ++k) sums[0] = _mm256_add_epi32(sums[0], sums[k]);
  return _mm256_extract_epi32(sums[0], 0);
}

}  // namespace scalebits
