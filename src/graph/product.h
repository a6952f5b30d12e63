// The matrix products of the linear layers. Operands share one type: f32, or bf16 where the caller rounded them. Sums
// are f32 in both; a result is written in the type of its tensor. With bf16 operands and an f32 result nothing but the
// operands is rounded.
#pragma once

#include "graph/row_kernels.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// out [n, rows] = x [n, cols] · w [rows, cols]^T.
void product_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& out);
/// dx [n, cols] = dy [n, rows] · w [rows, cols], added to dx when `accumulate`.
void product_input_gradient(const at::Tensor& dy, const at::Tensor& w, const at::Tensor& dx, bool accumulate);
/// gradient [rows, cols] f32 = dy [n, rows]^T · x [n, cols], added to it when `accumulate`.
void product_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& gradient, bool accumulate);

/// A product of small blocks with any row stride, for callers that cut work over threads themselves:
/// c [m, n] f32 = alpha · op(a) · op(b) + beta · c, op a transposition where asked for. T: float or Bf16.
struct BlockProduct {
  bool transpose_a = false, transpose_b = false;
  std::int64_t m, n, k;
  std::int64_t stride_a, stride_b, stride_c;
  float alpha = 1, beta = 0;
};
void multiply_blocks(const BlockProduct& shape, const float* a, const float* b, float* c);
void multiply_blocks(const BlockProduct& shape, const Bf16* a, const Bf16* b, float* c);

}  // namespace scalebits
