// The kernels of packed_i8_avx_vnni.cpp as they stand, but for the encoding of their one special instruction: with that
// of AVX-512, machines that have VNNI only there check (and can time) what runs on those that have AVX-VNNI.
#include <immintrin.h>

#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#define run_packed_i8_avx_vnni run_packed_i8_avx_vnni_evex
#define run_packed_i8_avx_vnni_panels run_packed_i8_avx_vnni_panels_evex
#include "kernels/cpu/packed_i8_avx_vnni.cpp"
