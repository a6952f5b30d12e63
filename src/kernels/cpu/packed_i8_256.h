// The 256-bit vectors that packed_i8_avx2.cpp and packed_i8_avx_vnni.cpp share: all but the products of bytes. A
// 64-byte vector of codes is read in two halves, rows 0 to 7 and 8 to 15. For inclusion by those two files only.
#pragma once

#include "kernels/cpu/packed_i8_body.h"

#include <bit>
#include <immintrin.h>

namespace scalebits {
namespace {

struct Vectors256 {
  using Ints = __m256i;
  using Floats = __m256;
  using Sum = std::int32_t __attribute__((vector_size(32)));  // as in Avx512
  static constexpr int kLanes = 8;
  static constexpr int kParts = 2;
  static constexpr int kMaxRows = 4;

  static Ints zero() { return _mm256_setzero_si256(); }
  static Ints load(const std::byte* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  template <int Bits>
  static Ints shift(Ints x) {
    if constexpr (Bits > 0) return _mm256_srli_epi32(x, Bits);
    if constexpr (Bits < 0) return _mm256_slli_epi32(x, -Bits);
    return x;
  }
  static Ints broadcast_bits(std::uint32_t bits) { return _mm256_set1_epi32(static_cast<int>(bits)); }
  static Ints bytes(int value) { return _mm256_set1_epi32(static_cast<int>(kBytes.words[value])); }
  static Ints masked(Ints x, int mask) { return _mm256_and_si256(x, bytes(mask)); }
  static Ints merge(Ints a, Ints b, int mask) { return _mm256_or_si256(a, masked(b, mask)); }
  static Ints broadcast4(const std::int8_t* from) {
    std::int32_t value;
    __builtin_memcpy(&value, from, 4);
    return _mm256_set1_epi32(value);
  }

  static void store(std::byte* to, Ints x) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), x); }
  static Floats to_floats(Sum x) { return _mm256_cvtepi32_ps(std::bit_cast<Ints>(x)); }
  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm256_storeu_ps(to, x); }
  static Floats broadcast(const float* from) { return _mm256_broadcast_ss(from); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  /// x − a·b, rounded once.
  static Floats subtract_product(Floats x, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, x); }

  /// Codes 8·part … of a stream at `side`; the bits above a code's own are not cleared.
  static Ints unmasked_codes(const SideStream& stream, const std::byte* side, int part) {
    const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(side)));
    return _mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, part_of(stream.bytes, part)), part_of(stream.shifts, part));
  }
  static Ints codes(const SideStream& stream, const std::byte* side, int part) {
    return _mm256_and_si256(unmasked_codes(stream, side, part), part_of(stream.masks, part));
  }
  /// table[codes modulo 16]
  static Floats look_up_16(const float* table, Ints codes) {
    const Floats low = _mm256_permutevar8x32_ps(load(table), codes),
                 high = _mm256_permutevar8x32_ps(load(table + 8), codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));  // by bit 3
  }
  /// table[codes modulo 8] · 2^(codes' higher bits, of which `octaves` has those that count)
  static Floats look_up_octaves(const float* table, Ints codes, Ints octaves) {
    const __m256i powers = _mm256_slli_epi32(_mm256_and_si256(codes, octaves), 20);
    const Floats first = _mm256_permutevar8x32_ps(load(table), codes);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(first), powers));
  }
  /// table[codes] for codes of `bits` bits.
  static Floats look_up(const float* table, Ints codes, int bits) {
    if (bits > 4) return _mm256_i32gather_ps(table, codes, 4);
    return look_up_16(table, codes);
  }

 private:
  static Ints part_of(const void* table, int part) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(static_cast<const char*>(table) + 32 * part));
  }
};

}  // namespace
}  // namespace scalebits
