// The packed_i8 product and the gather on AVX-512 VNNI: one row of the matrix per 32-bit lane, four products and their sum
// in one VPDPBUSD.
#include "kernels/cpu/packed_i8_body.h"

#include <immintrin.h>

namespace scalebits {
namespace {

struct Avx512 {
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kParts = 1;
  static constexpr int kMaxRows = 16;
  static constexpr bool kWideProducts = true;
  static constexpr int chunks_per_run(int) { return 16; }

  static Ints zero() { return _mm512_setzero_si512(); }
  static Ints load(const std::byte* from) { return _mm512_loadu_si512(from); }
  static void prefetch(const std::byte* at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0); }
  template <int Bits>
  static Ints shift(Ints x) {
    if constexpr (Bits > 0) return _mm512_srli_epi32(x, Bits);
    if constexpr (Bits < 0) return _mm512_slli_epi32(x, -Bits);
    return x;
  }
  /// Of sums that are multiples of 2^Bits.
  template <int Bits>
  static Ints shift_down(Ints x) {
    if constexpr (Bits > 0) return _mm512_srai_epi32(x, Bits);
    return x;
  }
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
  static Ints multiply_add(Ints sum, Ints codes, Ints values) { return _mm512_dpbusd_epi32(sum, codes, values); }
  static Ints widen(Ints x) { return x; }
  static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }

  static Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
  static Floats broadcast(const float* from) { return _mm512_set1_ps(*from); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  /// x − a·b, rounded once.
  static Floats subtract_product(Floats x, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, x); }

  /// The 16 codes of a stream at `side`.
  static Ints codes(const SideStream& stream, const std::byte* side, int) {
    const __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(side)));
    const __m512i spread = _mm512_shuffle_epi8(bytes, _mm512_load_si512(stream.bytes));
    return _mm512_and_si512(_mm512_srlv_epi32(spread, _mm512_load_si512(stream.shifts)),
                            _mm512_load_si512(stream.masks));
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

/// 16 activations from `column` on in stored order; zeros beyond the last.
__m512 gathered(const GatherTask& task, const float* row, std::int64_t column) {
  const std::int64_t left = task.inputs - column;
  const __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
  if (task.input_order.empty()) return _mm512_maskz_loadu_ps(mask, row + column);
  const __m512i index = _mm512_maskz_loadu_epi32(mask, task.input_order.data() + column);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, row, 4);
}

}  // namespace

void run_packed_i8_avx512(const PackedTask& task) { run_packed_i8<Avx512>(task); }

void gather_i8_avx512(const GatherTask& task) {
  Activations& out = *task.out;
  const int vectors = out.group / 16;
  for (std::int64_t row = task.first; row < task.last; ++row)
    for (std::int64_t group = 0; group < out.groups(); ++group) {
      __m512 values[4], largest = _mm512_setzero_ps();
      for (int v = 0; v < vectors; ++v) {
        values[v] = gathered(task, task.x + row * task.x_stride, group * out.group + v * 16);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(values[v]));
      }
      const float peak = _mm512_reduce_max_ps(largest);
      const __m512 inverse = _mm512_set1_ps(peak > 0 ? 127.0f / peak : 0.0f);
      __m512i sum = _mm512_setzero_si512();
      std::int8_t* to = out.i8.data() + row * out.cols + group * out.group;
      for (int v = 0; v < vectors; ++v) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(values[v], inverse));
        sum = _mm512_add_epi32(sum, rounded);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + v * 16), _mm512_cvtepi32_epi8(rounded));
      }
      const auto at = static_cast<std::size_t>(row * out.groups() + group) * 2;
      out.scales[at] = peak / 127.0f;
      out.scales[at + 1] = static_cast<float>(_mm512_reduce_add_epi32(sum));
    }
}

}  // namespace scalebits
