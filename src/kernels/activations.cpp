#include "kernels/activations.h"

#include "format/matrix_format.h"

namespace scalebits {

void Activations::resize(ActivationFormat wanted, std::int64_t n, std::int64_t inputs, int group_size) {
  format = wanted;
  rows = n;
  cols = divide_up(inputs, kTileCols) * kTileCols;
  group = group_size;
  const auto values = static_cast<std::size_t>(rows * cols),
             scale_count = static_cast<std::size_t>(rows * groups() * 2);
  if (format == ActivationFormat::i8) {
    i8.reserve(values);
    scales.reserve(scale_count);
  } else {
    f32.reserve(values);
  }
}

}  // namespace scalebits
