// Compiled for AVX-512 with VNNI.
#include "bench/machine_loops.h"

#include <immintrin.h>

namespace scalebits {

std::uint64_t read_avx512(const std::byte* data, std::size_t bytes) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (std::size_t i = 0; i < bytes; i += 512) {
    const std::byte* const at = data + i;
    for (int k = 0; k < 8; ++k) {
      _mm_prefetch(reinterpret_cast<const char*>(at) + 4096 + 64 * k, _MM_HINT_T0);
      sums[k] = _mm512_or_si512(sums[k], _mm512_loadu_si512(at + 64 * k));
    }
  }
  for (int k = 1; k < 8; ++k) sums[0] = _mm512_or_si512(sums[0], sums[k]);
  return static_cast<std::uint64_t>(_mm512_reduce_or_epi64(sums[0]));
}

std::int32_t peak_avx512_vnni(std::int64_t rounds) {
  __m512i sums[16];
  const __m512i codes = _mm512_set1_epi8(3), values = _mm512_set1_epi8(-5);
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (std::int64_t round = 0; round < rounds; ++round)
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, codes, values);
  for (int k = 1; k < 16; ++k) sums[0] = _mm512_or_si512(sums[0], sums[k]);
  return _mm512_reduce_or_epi32(sums[0]);
}

}  // namespace scalebits
