// What happens between two products, on rows of f32: norms, rotation, activation, residuals. The same bits on every
// instruction set, whatever the length of the rows' run.
#pragma once

#include <cstdint>

namespace scalebits {

/// out = x / sqrt(mean(x²) + eps) · weight; out may be x.
void rms_norm(const float* x, const float* weight, float eps, std::int64_t width, float* out);

/// x += delta; then out = rms_norm(x).
void add_then_norm(float* x, const float* delta, const float* weight, float eps, std::int64_t width, float* out);

/// out = (x - mean(x)) / sqrt(variance(x) + eps) · weight + bias; out may be x.
void layer_norm(const float* x, const float* weight, const float* bias, float eps, std::int64_t width, float* out);

/// x += delta.
void add_row(float* x, const float* delta, std::int64_t width);

/// Turns each pair (i, i + head_dim/2) of each head by the angle whose cosine and sine are given, [head_dim / 2].
void rotate_heads(float* row, std::int64_t heads, std::int64_t head_dim, const float* cosines, const float* sines);

/// gate = gate · sigmoid(gate) · up.
void silu_times(float* gate, const float* up, std::int64_t count);

/// x = max(x, 0); NaN stays NaN.
void relu(float* x, std::int64_t count);

/// No NaN and no Inf among them.
bool all_finite(const float* values, std::int64_t count);

}  // namespace scalebits
