#include "graph/rope.h"

#include "core/error.h"
#include "graph/elementwise.h"

#include <cmath>

namespace scalebits {

void RopeTable::reserve(std::int64_t positions) {
  const std::size_t half = frequencies_.size();
  std::size_t have = cosines_.size() / half;
  cosines_.resize(std::max(cosines_.size(), static_cast<std::size_t>(positions) * half));
  sines_.resize(cosines_.size());
  for (; have < cosines_.size() / half; ++have) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(have) * frequencies_[i];
      cosines_[have * half + i] = static_cast<float>(std::cos(angle));
      sines_[have * half + i] = static_cast<float>(std::sin(angle));
    }
  }
}

void RopeTable::rotate(const at::Tensor& rows, std::int64_t length, std::int64_t first, float sign) const {
  const auto half = static_cast<std::int64_t>(frequencies_.size());
  const std::int64_t width = rows.size(-1), heads = width / (2 * half);
  SCALEBITS_ASSERT((first + length) * half <= static_cast<std::int64_t>(cosines_.size()));
  with_kernel_type(rows.scalar_type(), [&]<typename T>() {
    auto* data = data_of<T>(rows);
    for_rows(rows.numel() / width, width, [&](std::int64_t row) {
      const std::int64_t angles = (first + row % length) * half;
      row_kernels<T>().rotate(data + row * width, heads, 2 * half, cosines_.data() + angles, sines_.data() + angles,
                              sign);
    });
  });
}

}  // namespace scalebits
