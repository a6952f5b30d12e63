#include "runtime/row_math.h"

#include "core/lanes.h"

#include <cmath>

namespace scalebits {
namespace {

SCALEBITS_INLINE void scale_row(const float* x, const float* weight, float scale, std::int64_t width, float* out) {
  for (std::int64_t i = 0; i < width; i += kLanes) {
    Lanes value, factor;
    load_some_lanes(value, x + i, width - i);
    load_some_lanes(factor, weight + i, width - i);
    store_some_lanes(out + i, value * scale * factor, width - i);
  }
}

SCALEBITS_INLINE float inverse_rms(const Lanes& squares, float eps, std::int64_t width) {
  return 1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(width) + eps);
}

}  // namespace

SCALEBITS_CLONES
void rms_norm(const float* x, const float* weight, float eps, std::int64_t width, float* out) {
  Lanes squares = {};
  for (std::int64_t i = 0; i < width; i += kLanes) {
    Lanes value;
    load_some_lanes(value, x + i, width - i);
    squares += value * value;
  }
  scale_row(x, weight, inverse_rms(squares, eps, width), width, out);
}

SCALEBITS_CLONES
void add_then_norm(float* x, const float* delta, const float* weight, float eps, std::int64_t width, float* out) {
  Lanes squares = {};
  for (std::int64_t i = 0; i < width; i += kLanes) {
    Lanes value, more;
    load_some_lanes(value, x + i, width - i);
    load_some_lanes(more, delta + i, width - i);
    value += more;
    store_some_lanes(x + i, value, width - i);
    squares += value * value;
  }
  scale_row(x, weight, inverse_rms(squares, eps, width), width, out);
}

SCALEBITS_CLONES
void add_row(float* x, const float* delta, std::int64_t width) {
  for (std::int64_t i = 0; i < width; i += kLanes) {
    Lanes value, more;
    load_some_lanes(value, x + i, width - i);
    load_some_lanes(more, delta + i, width - i);
    store_some_lanes(x + i, value + more, width - i);
  }
}

SCALEBITS_CLONES
void rotate_heads(float* row, std::int64_t heads, std::int64_t head_dim, const float* cosines, const float* sines) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t head = 0; head < heads; ++head, row += head_dim) {
    for (std::int64_t i = 0; i < half; i += kLanes) {
      Lanes cosine, sine, low, high;
      load_some_lanes(cosine, cosines + i, half - i);
      load_some_lanes(sine, sines + i, half - i);
      load_some_lanes(low, row + i, half - i);
      load_some_lanes(high, row + half + i, half - i);
      store_some_lanes(row + i, low * cosine - high * sine, half - i);
      store_some_lanes(row + half + i, high * cosine + low * sine, half - i);
    }
  }
}

SCALEBITS_CLONES
void silu_times(float* gate, const float* up, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Lanes value, factor;
    load_some_lanes(value, gate + i, count - i);
    load_some_lanes(factor, up + i, count - i);
    Lanes power = -value;
    exp_lanes(power);
    store_some_lanes(gate + i, value * (1.0f / (1.0f + power)) * factor, count - i);
  }
}

SCALEBITS_CLONES
bool all_finite(const float* values, std::int64_t count) {
  Lanes sum = {};  // of zeros, or NaN
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Lanes value;
    load_some_lanes(value, values + i, count - i);
    sum += value * 0.0f;
  }
  return sum_lanes(sum) == 0;
}

}  // namespace scalebits
