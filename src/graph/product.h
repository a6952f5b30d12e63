// The matrix products of the linear layers. Operands share one type: f32, or bf16 where the caller rounded them. Sums are
// f32 in both; a result is written in the type of its tensor. With bf16 operands and an f32 result nothing but the
// operands is rounded.
#pragma once

#include <ATen/core/Tensor.h>

namespace scalebits {

/// out [n, rows] = x [n, cols] · w [rows, cols]^T.
void product_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& out);
/// dx [n, cols] = dy [n, rows] · w [rows, cols], added to dx when `accumulate`.
void product_input_gradient(const at::Tensor& dy, const at::Tensor& w, const at::Tensor& dx, bool accumulate);
/// gradient [rows, cols] f32 = dy [n, rows]^T · x [n, cols], added to it when `accumulate`.
void product_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& gradient, bool accumulate);

}  // namespace scalebits
