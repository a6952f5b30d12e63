// Gather of activations: the scalar rule for 8-bit values, and f32 as they are. And the scratch of all kernels'
// threads.
#include "kernels/cpu/packed_i8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace scalebits {
namespace {

float gathered(const GatherTask& task, std::int64_t row, std::int64_t column) {
  if (column >= task.inputs) return 0;
  const std::int64_t source = task.input_order.empty() ? column : task.input_order[static_cast<std::size_t>(column)];
  return task.x[row * task.x_stride + source];
}

}  // namespace

std::byte* thread_scratch(std::size_t bytes) {
  thread_local AlignedBuffer<std::byte> scratch;
  scratch.reserve(bytes);
  return scratch.data();
}

void gather_not_finite(Activations& out, std::int64_t row, std::int64_t group) {
  std::fill_n(out.i8.data() + row * out.cols + group * out.group, out.group, std::int8_t{0});
  float* scales = out.scales.data() + (row * out.groups() + group) * 2;
  scales[0] = std::numeric_limits<float>::quiet_NaN();
  scales[1] = 0;
}

void gather_i8_scalar(const GatherTask& task) {
  Activations& out = *task.out;
  out.for_groups(task.first, task.last, [&](std::int64_t row, std::int64_t group) {
    float values[64];
    std::uint32_t largest = 0;
    for (int i = 0; i < out.group; ++i) {
      values[i] = gathered(task, row, group * out.group + i);
      largest = std::max(largest, std::bit_cast<std::uint32_t>(std::fabs(values[i])));
    }
    const auto peak = std::bit_cast<float>(largest);
    if (!std::isfinite(peak)) return gather_not_finite(out, row, group);
    const float inverse = peak >= kSmallestPeak ? 127.0f / peak : 0.0f;
    std::int32_t sum = 0;
    for (int i = 0; i < out.group; ++i) {
      const auto value = static_cast<std::int32_t>(std::nearbyint(values[i] * inverse));
      out.i8[static_cast<std::size_t>(row * out.cols + group * out.group + i)] = static_cast<std::int8_t>(value);
      sum += value;
    }
    const auto at = static_cast<std::size_t>(row * out.groups() + group) * 2;
    out.scales[at] = peak / 127.0f;
    out.scales[at + 1] = static_cast<float>(sum);
  });
}

void gather_f32(const GatherTask& task) {
  Activations& out = *task.out;
  out.for_groups(task.first, task.last, [&](std::int64_t row, std::int64_t group) {
    for (std::int64_t column = group * out.group; column < (group + 1) * out.group; ++column)
      out.f32[static_cast<std::size_t>(row * out.cols + column)] = gathered(task, row, column);
  });
}

}  // namespace scalebits
