// The packed_i8 product and the gather on AVX2. VPMADDUBSW adds pairs of products in 16 bits, which a few chunks fill:
// runs are as long as the widest codes allow, then widened to 32 bits.
#include "kernels/cpu/packed_i8_256.h"
#include "kernels/cpu/packed_i8_panel.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace scalebits {
namespace {

struct Avx2 : Vectors256 {
  static constexpr bool kWideProducts = false;
  /// Chunks whose pairs of products fit 16 bits: 2 · 127 · (2^width − 1) each. Width 8 never comes here.
  static constexpr int chunks_per_run(int width) {
    const int chunks = 32767 / (2 * 127 * ((1 << width) - 1));
    return chunks >= 16 ? 16 : chunks >= 8 ? 8 : chunks >= 4 ? 4 : chunks >= 2 ? 2 : 1;
  }
  using NarrowSum = std::int16_t __attribute__((vector_size(32)));  // of pairs of products
  static Sum widened(NarrowSum sum) {
    return std::bit_cast<Sum>(_mm256_madd_epi16(std::bit_cast<Ints>(sum), _mm256_set1_epi16(1)));
  }
  static NarrowSum add_product(NarrowSum sum, Ints codes, Ints values) {
    sum += std::bit_cast<NarrowSum>(_mm256_maddubs_epi16(codes, values));
    asm("" : "+x"(sum));  // here and now: GCC would make all products first, and have no registers for them
    return sum;
  }
  static void add_products_at(NarrowSum* sums, const Ints* codes, const std::int8_t* values) {
    const Ints value = broadcast4(values);
    for (int part = 0; part < kParts; ++part) sums[part] = add_product(sums[part], codes[part], value);
  }

  static constexpr int kPanelTileRows = 1;
  /// 10 registers of narrow sums and 2 of codes; where narrow sums are widened after every chunk, 6 of each.
  static constexpr int panel_x(int width) { return width >= 5 && width <= 7 ? 3 : 5; }
};

/// 8 activations from `column` on in stored order; zeros beyond the last.
__m256 gathered8(const GatherTask& task, const float* row, std::int64_t column) {
  const std::int64_t left = task.inputs - column;
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left < 8 ? left : 8)),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  if (left <= 0) return _mm256_setzero_ps();
  if (task.input_order.empty()) return _mm256_maskload_ps(row + column, mask);
  const __m256i index = _mm256_maskload_epi32(reinterpret_cast<const int*>(task.input_order.data() + column), mask);
  return _mm256_mask_i32gather_ps(_mm256_setzero_ps(), row, index, _mm256_castsi256_ps(mask), 4);
}

}  // namespace

void run_packed_i8_avx2(const PackedTask& task) { run_packed_i8<Avx2>(task); }

void run_packed_i8_avx2_panels(const PackedTask& task) { run_packed_i8_panels<Avx2>(task); }

void gather_i8_avx2(const GatherTask& task) {
  Activations& out = *task.out;
  const int vectors = out.group / 8;
  const __m256 sign = _mm256_set1_ps(-0.0f);
  out.for_groups(task.first, task.last, [&](std::int64_t row, std::int64_t group) {
    __m256 values[8];
    __m256i largest = _mm256_setzero_si256();
    for (int v = 0; v < vectors; ++v) {
      values[v] = gathered8(task, task.x + row * task.x_stride, group * out.group + v * 8);
      largest = _mm256_max_epi32(largest, _mm256_castps_si256(_mm256_andnot_ps(sign, values[v])));
    }
    alignas(32) std::int32_t peaks[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(peaks), largest);
    const auto peak = std::bit_cast<float>(*std::max_element(peaks, peaks + 8));
    if (!std::isfinite(peak)) return gather_not_finite(out, row, group);
    const __m256 inverse = _mm256_set1_ps(peak >= kSmallestPeak ? 127.0f / peak : 0.0f);
    std::int8_t* to = out.i8.data() + row * out.cols + group * out.group;
    std::int32_t sum = 0;
    for (int v = 0; v < vectors; ++v) {
      alignas(32) std::int32_t rounded[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(rounded), _mm256_cvtps_epi32(_mm256_mul_ps(values[v], inverse)));
      for (int i = 0; i < 8; ++i) {
        to[v * 8 + i] = static_cast<std::int8_t>(rounded[i]);
        sum += rounded[i];
      }
    }
    float* scales = out.scales.data() + (row * out.groups() + group) * 2;
    scales[0] = peak / 127.0f;
    scales[1] = static_cast<float>(sum);
  });
}

}  // namespace scalebits
