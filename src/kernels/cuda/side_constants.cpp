#include "kernels/cuda/fragments.h"

#include <algorithm>
#include <cmath>

namespace scalebits::cuda {

SideConstants make_side_constants(const StoredShape& shape) {
  SideConstants side{};
  for (int code = 0; code < 1 << shape.scale_bits; ++code)
    side.range[code] = static_cast<float>(static_cast<double>(shape.scale_base) *
                                          std::exp2(code * static_cast<double>(shape.scale_step_log2)));
  for (int width = 1; width <= 8; ++width) {
    const double levels = 1 << width, centre = 0.5 * (levels - 1);
    const double half_codes = shape.zero_bits == 0 ? 0 : 1 << (shape.zero_bits - 1);
    const double step = shape.zero_bits == 0 ? 0 : static_cast<double>(shape.zero_range) * levels / half_codes;
    side.width[width].inverse = static_cast<float>(1 / (levels - 1));
    side.width[width].zero_step = static_cast<float>(step);  // exact: half_codes and levels are powers of two
    for (int half = 0; half < 2; ++half)
      side.width[width].zero_base[half] = static_cast<float>(centre - half_codes * step + code_offset(width, half));
  }
  // Up to a zero_range of 1 weights are within two and a half ranges (1 bit): below 2^16 when the largest is below
  // 2^14. A step of 8 bits is a 255th of its range.
  const auto [smallest, largest] = std::minmax_element(side.range, side.range + (1 << shape.scale_bits));
  const float to_half = std::exp2(13.0f - static_cast<float>(std::ilogb(*largest)));
  const bool fits = *smallest / 255 * to_half >= 0x1p-14f && std::isfinite(to_half) && shape.zero_range <= 1;
  side.to_half = fits ? to_half : 0;
  side.from_half = fits ? 1 / to_half : 0;
  return side;
}

}  // namespace scalebits::cuda
