#include "graph/product.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

// MKL inside libtorch_cpu; its own headers are not in the wheel.
extern "C" void cblas_gemm_bf16bf16f32(int layout, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                                       const std::uint16_t* a, int stride_a, const std::uint16_t* b, int stride_b,
                                       float beta, float* c, int stride_c);
extern "C" void sgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* stride_a, const float* b, const int* stride_b,
                       const float* beta, float* c, const int* stride_c);

namespace scalebits {
namespace {

bool mixed(const at::Tensor& operand, const at::Tensor& result) {
  return operand.scalar_type() == at::kBFloat16 && result.scalar_type() == at::kFloat;
}

const Bf16* bf16_data(const at::Tensor& tensor) { return static_cast<const Bf16*>(tensor.data_ptr()); }

/// out = a · b, or out += a · b; written into out's own memory.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor out, bool accumulate) {
  if (accumulate) {
    at::addmm_out(out, out, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

}  // namespace

void multiply_blocks(const BlockProduct& shape, const float* a, const float* b, float* c) {
  // The Fortran routine thinks in columns: it is asked for c^T = op(b)^T · op(a)^T.
  const char transpose_a = shape.transpose_a ? 'T' : 'N', transpose_b = shape.transpose_b ? 'T' : 'N';
  const int m = static_cast<int>(shape.m), n = static_cast<int>(shape.n), k = static_cast<int>(shape.k);
  const int stride_a = static_cast<int>(shape.stride_a), stride_b = static_cast<int>(shape.stride_b),
            stride_c = static_cast<int>(shape.stride_c);
  sgemm_(&transpose_b, &transpose_a, &n, &m, &k, &shape.alpha, b, &stride_b, a, &stride_a, &shape.beta, c, &stride_c);
}

void multiply_blocks(const BlockProduct& shape, const Bf16* a, const Bf16* b, float* c) {
  constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
  cblas_gemm_bf16bf16f32(kRowMajor, shape.transpose_a ? kTransposed : kPlain, shape.transpose_b ? kTransposed : kPlain,
                         static_cast<int>(shape.m), static_cast<int>(shape.n), static_cast<int>(shape.k), shape.alpha,
                         &a->bits, static_cast<int>(shape.stride_a), &b->bits, static_cast<int>(shape.stride_b),
                         shape.beta, c, static_cast<int>(shape.stride_c));
}

void product_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& out) {
  if (!mixed(x, out)) return multiply(x, w.t(), out, false);
  const std::int64_t n = x.size(0), rows = w.size(0), cols = w.size(1);
  multiply_blocks(
      {.transpose_b = true, .m = n, .n = rows, .k = cols, .stride_a = cols, .stride_b = cols, .stride_c = rows},
      bf16_data(x), bf16_data(w), out.data_ptr<float>());
}

void product_input_gradient(const at::Tensor& dy, const at::Tensor& w, const at::Tensor& dx, bool accumulate) {
  if (!mixed(dy, dx)) return multiply(dy, w, dx, accumulate);
  const std::int64_t n = dy.size(0), rows = w.size(0), cols = w.size(1);
  multiply_blocks({.m = n,
                   .n = cols,
                   .k = rows,
                   .stride_a = rows,
                   .stride_b = cols,
                   .stride_c = cols,
                   .beta = accumulate ? 1.0f : 0.0f},
                  bf16_data(dy), bf16_data(w), dx.data_ptr<float>());
}

void product_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& gradient, bool accumulate) {
  if (!mixed(dy, gradient)) return multiply(dy.t(), x, gradient, accumulate);
  const std::int64_t n = dy.size(0), rows = dy.size(1), cols = x.size(1);
  multiply_blocks({.transpose_a = true,
                   .m = rows,
                   .n = cols,
                   .k = n,
                   .stride_a = rows,
                   .stride_b = cols,
                   .stride_c = cols,
                   .beta = accumulate ? 1.0f : 0.0f},
                  bf16_data(dy), bf16_data(x), gradient.data_ptr<float>());
}

}  // namespace scalebits
