#include "graph/product.h"

#include "core/error.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include <cstdint>

// MKL inside libtorch_cpu; its own header is not in the wheel.
extern "C" void cblas_gemm_bf16bf16f32(int layout, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                                       const std::uint16_t* a, int stride_a, const std::uint16_t* b, int stride_b,
                                       float beta, float* c, int stride_c);

namespace scalebits {
namespace {

constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;

bool mixed(const at::Tensor& operand, const at::Tensor& result) {
  return operand.scalar_type() == at::kBFloat16 && result.scalar_type() == at::kFloat;
}

const std::uint16_t* bf16_data(const at::Tensor& tensor) { return static_cast<const std::uint16_t*>(tensor.data_ptr()); }
int extent(const at::Tensor& tensor, int dimension) { return static_cast<int>(tensor.size(dimension)); }

/// out = a · b, or out += a · b; written into out's own memory.
void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor out, bool accumulate) {
  if (accumulate) {
    at::addmm_out(out, out, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

}  // namespace

void product_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& out) {
  if (!mixed(x, out)) return multiply(x, w.t(), out, false);
  cblas_gemm_bf16bf16f32(kRowMajor, kPlain, kTransposed, extent(x, 0), extent(w, 0), extent(x, 1), 1.0f, bf16_data(x),
                         extent(x, 1), bf16_data(w), extent(w, 1), 0.0f, out.data_ptr<float>(), extent(out, 1));
}

void product_input_gradient(const at::Tensor& dy, const at::Tensor& w, const at::Tensor& dx, bool accumulate) {
  if (!mixed(dy, dx)) return multiply(dy, w, dx, accumulate);
  cblas_gemm_bf16bf16f32(kRowMajor, kPlain, kPlain, extent(dy, 0), extent(w, 1), extent(dy, 1), 1.0f, bf16_data(dy),
                         extent(dy, 1), bf16_data(w), extent(w, 1), accumulate ? 1.0f : 0.0f, dx.data_ptr<float>(),
                         extent(dx, 1));
}

void product_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& gradient, bool accumulate) {
  if (!mixed(dy, gradient)) return multiply(dy.t(), x, gradient, accumulate);
  cblas_gemm_bf16bf16f32(kRowMajor, kTransposed, kPlain, extent(dy, 1), extent(x, 1), extent(dy, 0), 1.0f, bf16_data(dy),
                         extent(dy, 1), bf16_data(x), extent(x, 1), accumulate ? 1.0f : 0.0f, gradient.data_ptr<float>(),
                         extent(gradient, 1));
}

}  // namespace scalebits
