// Rounding of keys and values for any x86-64.
#include "core/float_types.h"
#include "kernels/cpu/attention_calls.h"

#include <cfloat>
#include <cmath>
#include <cstring>

namespace scalebits {

void store_f16_scalar(const float* from, std::int64_t count, std::byte* to) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = f32_to_f16(from[i]);
    std::memcpy(to + 2 * i, &bits, 2);
  }
}

void store_i8_scalar(const float* from, std::int64_t count, std::byte* to, float* scale) {
  float largest = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = std::fabs(from[i]) > largest ? std::fabs(from[i]) : largest;
  *scale = largest / 127;
  const float inverse = largest > 0 ? std::fmin(127 / largest, FLT_MAX) : 0;  // finite for the tiniest
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = static_cast<std::byte>(static_cast<std::int8_t>(std::nearbyint(from[i] * inverse)));
}

}  // namespace scalebits
