#include "graph/rope.h"

#include "core/error.h"
#include "graph/elementwise.h"

#include <ATen/ops/empty.h>

#include <cmath>

namespace scalebits {

void RopeTable::reserve(std::int64_t positions) {
  if (cosines_.defined() && cosines_.size(0) >= positions) return;
  const auto half = static_cast<std::int64_t>(frequencies_.size());
  const at::Tensor cosines = at::empty({positions, half}, at::kFloat), sines = at::empty({positions, half}, at::kFloat);
  for (std::int64_t position = 0; position < positions; ++position)
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies_[static_cast<std::size_t>(i)];
      cosines.data_ptr<float>()[position * half + i] = static_cast<float>(std::cos(angle));
      sines.data_ptr<float>()[position * half + i] = static_cast<float>(std::sin(angle));
    }
  cosines_ = cosines.to(device_);
  sines_ = sines.to(device_);
}

void rotate(const RopeTable& table, const at::Tensor& rows, std::int64_t length, std::int64_t first, float sign) {
  const std::int64_t half = table.cosines().size(1), width = rows.size(-1), heads = width / (2 * half);
  SCALEBITS_ASSERT(first + length <= table.cosines().size(0));
  const auto* cosines = table.cosines().const_data_ptr<float>();
  const auto* sines = table.sines().const_data_ptr<float>();
  with_kernel_type(rows.scalar_type(), [&]<typename T>() {
    auto* data = data_of<T>(rows);
    for_rows(rows.numel() / width, width, [&](std::int64_t row) {
      const std::int64_t angles = (first + row % length) * half;
      row_kernels<T>().rotate(data + row * width, heads, 2 * half, cosines + angles, sines + angles, sign);
    });
  });
}

}  // namespace scalebits
