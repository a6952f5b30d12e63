// Causal attention with grouped queries and an optional sliding window, and its gradient. The score matrix of a head
// exists only in pieces.
#pragma once

#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// q, out: [windows, length, heads, head_dim]; k, v: [windows, length, kv_heads, head_dim]; log_sums:
/// [windows, heads, length] f32, the logarithm of each query's sum of exponentials. q is not scaled yet.
struct Attention {
  at::Tensor q, k, v, out, log_sums;
  std::int64_t sliding_window = 0;  // positions seen, itself included; 0: all before
};

/// Writes out and log_sums.
void attend(const Attention& tensors);

/// From d(out) to d(q), d(k), d(v), each shaped as its tensor.
struct AttentionGradient {
  at::Tensor dout, dq, dk, dv;
};
void attend_backward(const Attention& tensors, const AttentionGradient& gradient);

}  // namespace scalebits
