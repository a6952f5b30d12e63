#include "train/norm_gradient.h"

#include "core/error.h"
#include "core/parallel.h"
#include "graph/elementwise.h"
#include "train/element_lanes.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace scalebits {
namespace {

constexpr std::int64_t kPiece = 128;

template <typename T>
SCALEBITS_INLINE void add_row(const T* dout, const float* x, std::int64_t width, float eps, float* sum) {
  Lanes squares{}, a, b, s;
  for (std::int64_t i = 0; i < width; i += kLanes) {
    load_elements(a, x + i, width - i);
    squares += a * a;
  }
  const float inverse = 1.0f / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(width) + eps);
  for (std::int64_t i = 0; i < width; i += kLanes) {
    load_elements(a, x + i, width - i);
    load_elements(b, dout + i, width - i);
    load_elements(s, sum + i, width - i);
    s += b * (a * inverse);
    store_elements(sum + i, s, width - i);
  }
}

SCALEBITS_CLONES void add_rows(const float* dout, const float* x, std::int64_t rows, std::int64_t width, float eps,
                               float* sum) {
  for (std::int64_t row = 0; row < rows; ++row) add_row(dout + row * width, x + row * width, width, eps, sum);
}
SCALEBITS_CLONES void add_rows(const Bf16* dout, const float* x, std::int64_t rows, std::int64_t width, float eps,
                               float* sum) {
  for (std::int64_t row = 0; row < rows; ++row) add_row(dout + row * width, x + row * width, width, eps, sum);
}

}  // namespace

void norm_weight_gradient(const at::Tensor& dout, const at::Tensor& x, double eps, const at::Tensor& gradient) {
  const std::int64_t rows = x.size(0), width = x.size(1), pieces = (rows + kPiece - 1) / kPiece;
  SCALEBITS_ASSERT(dout.sizes() == x.sizes() && gradient.numel() == width);
  std::vector<float> parts(static_cast<std::size_t>(pieces * width), 0.0f);
  with_kernel_type(dout.scalar_type(), [&]<typename T>() {
    const auto* const from = data_of<T>(dout);
    const auto* const at_x = data_of<float>(x);
    parallel_for(pieces, [&](std::int64_t piece) {
      const std::int64_t first = piece * kPiece, count = std::min(kPiece, rows - first);
      add_rows(from + first * width, at_x + first * width, count, width, static_cast<float>(eps),
               parts.data() + piece * width);
    });
  });
  auto* const out = data_of<float>(gradient);
  for (std::int64_t i = 0; i < width; ++i) {
    double sum = 0;
    for (std::int64_t piece = 0; piece < pieces; ++piece) sum += parts[static_cast<std::size_t>(piece * width + i)];
    out[i] = static_cast<float>(sum);
  }
}

}  // namespace scalebits
