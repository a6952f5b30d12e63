#include "runtime/row_math.h"

#include "core/lanes.h"

#include <cmath>

namespace scalebits {
namespace {

SCALEBITS_INLINE void scale_row(const float* x, const float* weight, const Lanes& squares, float eps,
                                std::int64_t width, float* out) {
  const float scale = 1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(width) + eps);
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value, factor;
    load_lanes(value, x + i, which);
    load_lanes(factor, weight + i, which);
    store_lanes(out + i, value * scale * factor, which);
  });
}

}  // namespace

SCALEBITS_CLONES
void rms_norm(const float* x, const float* weight, float eps, std::int64_t width, float* out) {
  Lanes squares = {};
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value;
    load_lanes(value, x + i, which);
    squares += value * value;
  });
  scale_row(x, weight, squares, eps, width, out);
}

SCALEBITS_CLONES
void add_then_norm(float* x, const float* delta, const float* weight, float eps, std::int64_t width, float* out) {
  Lanes squares = {};
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value, more;
    load_lanes(value, x + i, which);
    load_lanes(more, delta + i, which);
    value += more;
    store_lanes(x + i, value, which);
    squares += value * value;
  });
  scale_row(x, weight, squares, eps, width, out);
}

SCALEBITS_CLONES
void layer_norm(const float* x, const float* weight, const float* bias, float eps, std::int64_t width, float* out) {
  Lanes values = {}, squares = {};
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value;
    load_lanes(value, x + i, which);
    values += value;
  });
  const float mean = sum_lanes(values) / static_cast<float>(width);
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value;
    load_lanes(value, x + i, which);
    value -= mean;
    keep_lanes(value, which);
    squares += value * value;
  });
  const float scale = 1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(width) + eps);
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value, factor, shift;
    load_lanes(value, x + i, which);
    load_lanes(factor, weight + i, which);
    load_lanes(shift, bias + i, which);
    store_lanes(out + i, (value - mean) * scale * factor + shift, which);
  });
}

SCALEBITS_CLONES
void add_row(float* x, const float* delta, std::int64_t width) {
  for_lanes(width, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value, more;
    load_lanes(value, x + i, which);
    load_lanes(more, delta + i, which);
    store_lanes(x + i, value + more, which);
  });
}

SCALEBITS_CLONES
void rotate_heads(float* row, std::int64_t heads, std::int64_t head_dim, const float* cosines, const float* sines) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t head = 0; head < heads; ++head, row += head_dim) {
    for_lanes(half, [&](std::int64_t i, auto which) SCALEBITS_STEP {
      Lanes cosine, sine, low, high;
      load_lanes(cosine, cosines + i, which);
      load_lanes(sine, sines + i, which);
      load_lanes(low, row + i, which);
      load_lanes(high, row + half + i, which);
      store_lanes(row + i, low * cosine - high * sine, which);
      store_lanes(row + half + i, high * cosine + low * sine, which);
    });
  }
}

SCALEBITS_CLONES
void silu_times(float* gate, const float* up, std::int64_t count) {
  for_lanes(count, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value, factor;
    load_lanes(value, gate + i, which);
    load_lanes(factor, up + i, which);
    Lanes power = -value;
    exp_lanes(power);
    store_lanes(gate + i, value * (1.0f / (1.0f + power)) * factor, which);
  });
}

SCALEBITS_CLONES
void relu(float* x, std::int64_t count) {
  for_lanes(count, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value;
    load_lanes(value, x + i, which);
    store_lanes(x + i, value < Lanes{} ? Lanes{} : value, which);
  });
}

SCALEBITS_CLONES
bool all_finite(const float* values, std::int64_t count) {
  Lanes sum = {};  // of zeros, or NaN
  for_lanes(count, [&](std::int64_t i, auto which) SCALEBITS_STEP {
    Lanes value;
    load_lanes(value, values + i, which);
    sum += value * 0.0f;
  });
  return sum_lanes(sum) == 0;
}

}  // namespace scalebits
