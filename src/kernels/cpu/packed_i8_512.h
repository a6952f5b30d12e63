// The vectors of AVX-512 VNNI, and of AMX, which does all but the products with them. For inclusion by those two files
// only.
#pragma once

#include "kernels/cpu/packed_i8_body.h"

#include <bit>
#include <immintrin.h>

namespace scalebits {
namespace {

struct Avx512 {
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kParts = 1;
  static constexpr int kMaxRows = 8;
  static constexpr int kPanelTileRows = 4;  // 24 registers of sums, 4 of codes
  static constexpr int panel_x(int) { return 6; }
  static constexpr bool kWideProducts = true;
  static constexpr int chunks_per_run(int) { return 16; }

  static Ints zero() { return _mm512_setzero_si512(); }
  /// Into a register: left to itself, GCC reads a vector of codes from memory again for each of its fields.
  static Ints load(const std::byte* from) {
    Ints loaded;
    asm("" : "=v"(loaded) : "0"(_mm512_loadu_si512(from)));
    return loaded;
  }
  template <int Bits>
  static Ints shift(Ints x) {
    if constexpr (Bits > 0) return _mm512_srli_epi32(x, Bits);
    if constexpr (Bits < 0) return _mm512_slli_epi32(x, -Bits);
    return x;
  }
  static Ints broadcast_bits(std::uint32_t bits) { return _mm512_set1_epi32(static_cast<int>(bits)); }
  static Ints bytes(int value) { return _mm512_set1_epi32(static_cast<int>(kBytes.words[value])); }
  static Ints masked(Ints x, int mask) { return _mm512_and_si512(x, bytes(mask)); }
  static Ints merge(Ints a, Ints b, int mask) {
    return _mm512_ternarylogic_epi32(a, b, bytes(mask), 0xf8);  // a | (b & mask)
  }
  static Ints broadcast4(const std::int8_t* from) {
    std::int32_t value;
    __builtin_memcpy(&value, from, 4);
    return _mm512_set1_epi32(value);
  }
  /// Sums of products, for arrays of them: Ints may alias anything, and so GCC 12 stores each of an array's after each
  /// product.
  using Sum = std::int32_t __attribute__((vector_size(64)));
  using NarrowSum = Sum;
  static Sum widened(NarrowSum sum) { return sum; }
  static NarrowSum add_product(NarrowSum sum, Ints codes, Ints values) {
    return std::bit_cast<Sum>(_mm512_dpbusd_epi32(std::bit_cast<Ints>(sum), codes, values));
  }
  /// add_product with the four activations at `values`, broadcast by the product itself: GCC would do that apart,
  /// which costs a fifth where many rows of x share an operand.
  static void add_products_at(NarrowSum* sum, const Ints* codes, const std::int8_t* values) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(*sum) : "v"(*codes), "m"(*reinterpret_cast<const std::int32_t*>(values)));
  }

  static Floats to_floats(Sum x) { return _mm512_cvtepi32_ps(std::bit_cast<Ints>(x)); }
  static void store(std::byte* to, Ints x) { _mm512_store_si512(to, x); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
  static Floats broadcast(const float* from) { return _mm512_set1_ps(*from); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  /// x − a·b, rounded once.
  static Floats subtract_product(Floats x, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, x); }

  /// The 16 codes of a stream at `side`; the bits above a code's own are not cleared.
  static Ints unmasked_codes(const SideStream& stream, const std::byte* side, int) {
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(side)));
    return _mm512_srlv_epi32(_mm512_shuffle_epi8(bytes, _mm512_load_si512(stream.bytes)),
                             _mm512_load_si512(stream.shifts));
  }
  static Ints codes(const SideStream& stream, const std::byte* side, int) {
    return _mm512_and_si512(unmasked_codes(stream, side, 0), _mm512_load_si512(stream.masks));
  }
  /// table[codes modulo 16]
  static Floats look_up_16(const float* table, Ints codes) { return _mm512_permutexvar_ps(codes, load(table)); }
  /// table[codes modulo 16] · 2^(2 · codes' higher bits, of which `octaves` has those that count)
  static Floats look_up_octaves(const float* table, Ints codes, Ints octaves) {
    const __m512i powers = _mm512_slli_epi32(_mm512_and_si512(codes, octaves), 20);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(look_up_16(table, codes)), powers));
  }
  /// table[codes] for codes of `bits` bits.
  static Floats look_up(const float* table, Ints codes, int bits) {
    if (bits <= 4) return _mm512_permutexvar_ps(codes, load(table));
    if (bits > 6) return _mm512_i32gather_ps(codes, table, 4);
    const Floats low = _mm512_permutex2var_ps(load(table), codes, load(table + 16));
    if (bits == 5) return low;
    const Floats high = _mm512_permutex2var_ps(load(table + 32), codes, load(table + 48));
    return _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(codes, bytes(32)), high);
  }
};

}  // namespace
}  // namespace scalebits
