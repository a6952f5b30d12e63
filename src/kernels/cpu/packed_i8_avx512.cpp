// The packed_i8 product and the gather on AVX-512 VNNI: one row of the matrix per 32-bit lane, four products and their
// sum in one VPDPBUSD.
#include "kernels/cpu/packed_i8_512.h"
#include "kernels/cpu/packed_i8_panel.h"

#include <bit>
#include <cmath>

namespace scalebits {
namespace {

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

void run_packed_i8_avx512_panels(const PackedTask& task) { run_packed_i8_panels<Avx512>(task); }

void gather_i8_avx512(const GatherTask& task) {
  Activations& out = *task.out;
  const int vectors = out.group / 16;
  out.for_groups(task.first, task.last, [&](std::int64_t row, std::int64_t group) {
    __m512 values[4];
    __m512i largest = _mm512_setzero_si512();
    for (int v = 0; v < vectors; ++v) {
      values[v] = gathered(task, task.x + row * task.x_stride, group * out.group + v * 16);
      largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(values[v])));
    }
    const auto peak = std::bit_cast<float>(_mm512_reduce_max_epi32(largest));
    if (!std::isfinite(peak)) return gather_not_finite(out, row, group);
    const __m512 inverse = _mm512_set1_ps(peak >= kSmallestPeak ? 127.0f / peak : 0.0f);
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
  });
}

}  // namespace scalebits
