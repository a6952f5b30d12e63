// The row kernels over whole tensors, rows cut over threads. Tensors are contiguous; `rows` are all leading dimensions.
// T-typed tensors are f32 or bf16, all alike in one call; x, dx, weights, biases and logits are f32.
#pragma once

#include "graph/row_kernels.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

template <typename T>
T* data_of(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

/// Calls run.template operator()<T>() with the kernel type of `dtype`.
template <typename Run>
void with_kernel_type(at::ScalarType dtype, Run&& run) {
  if (dtype == at::kFloat) {
    run.template operator()<float>();
  } else {
    TORCH_CHECK(dtype == at::kBFloat16, "unexpected operand type");
    run.template operator()<Bf16>();
  }
}

/// body(row) for each row, a few rows of `row_elements` per task so that a task is worth its start.
template <typename Body>
void for_rows(std::int64_t rows, std::int64_t row_elements, Body&& body) {
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, row_elements));
  at::parallel_for(0, rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) body(row);
  });
}

/// A norm of the residual stream: RMSNorm or, with a bias, LayerNorm.
struct Norm {
  at::Tensor weight, bias;  // [hidden] f32
  double eps = 0;
};
/// sum = x + delta, out = norm(sum). With an undefined delta, sum is not touched and out = norm(x).
void add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& norm, const at::Tensor& sum,
              const at::Tensor& out);
/// dx += gradient of the norm at x; dx_rounded (may be undefined) = dx in dout's type.
void norm_backward(const at::Tensor& dout, const at::Tensor& x, const Norm& norm, const at::Tensor& dx,
                   const at::Tensor& dx_rounded);
/// RMSNorm of each head on its own: x, out [rows, heads * head_dim]; weight [head_dim].
void head_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& out);
/// In place on dout.
void head_norm_backward(const at::Tensor& dout, const at::Tensor& x, const at::Tensor& weight, double eps);
void add_bias(const at::Tensor& rows, const at::Tensor& bias);
void swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& product);
/// gate → d(gate), up → d(up), d(product) → product, in place.
void swiglu_backward(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& product);
void relu(const at::Tensor& x, const at::Tensor& out);
/// x → d(x), d(out) → out, in place.
void relu_backward(const at::Tensor& x, const at::Tensor& out);
/// rows [n, width] f32: row i = table[ids[i]], table f32, ids int64 in host memory and within it.
void look_up(const at::Tensor& table, const at::Tensor& ids, const at::Tensor& rows);
/// sum = x + delta; sum may be x.
void add(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum);
/// Conversion between f32 and the T type, either way.
void convert(const at::Tensor& from, const at::Tensor& to);

}  // namespace scalebits
