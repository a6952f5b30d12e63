// The decoder's elementwise work, fused so that each row is read and written once. One body (row_kernels_body.h) is
// compiled for three instruction sets; row_kernels<T>() picks once, by the processor. T is the type of the operands of
// the products (f32 or bf16); the residual stream and all arithmetic are f32. Nothing here is threaded: callers cut
// rows over threads.
#pragma once

#include <cstdint>

namespace scalebits {

struct Bf16 {
  std::uint16_t bits;
};

template <typename T>
struct RowKernels {
  /// sum = x + delta (skipped when delta is null; sum may be x), out = sum / rms(sum) * weight.
  void (*add_norm)(const float* x, const T* delta, const float* weight, float eps, std::int64_t width, float* sum,
                   T* out);
  /// dx += J(x)^T dout of out = x / rms(x) * weight; dx_rounded (unless null) = the updated dx.
  void (*norm_backward)(const T* dout, const float* x, const float* weight, float eps, std::int64_t width, float* dx,
                        T* dx_rounded);
  /// As add_norm with LayerNorm: out = (sum - mean(sum)) / deviation(sum) * weight + bias; and its gradient.
  void (*add_layer_norm)(const float* x, const T* delta, const float* weight, const float* bias, float eps,
                         std::int64_t width, float* sum, T* out);
  void (*layer_norm_backward)(const T* dout, const float* x, const float* weight, float eps, std::int64_t width,
                              float* dx, T* dx_rounded);
  /// The norm of add_norm over one head, x and out of type T; out may be x.
  void (*head_norm)(const T* x, const float* weight, float eps, std::int64_t width, T* out);
  /// dx = J(x)^T dout, dx may be dout.
  void (*head_norm_backward)(const T* dout, const T* x, const float* weight, float eps, std::int64_t width, T* dx);
  /// Turns the pairs (i, i + head_dim/2) of each head by the angles of one position; sign -1 turns back.
  void (*rotate)(T* row, std::int64_t heads, std::int64_t head_dim, const float* cosines, const float* sines,
                 float sign);
  /// row += bias.
  void (*add_bias)(T* row, const float* bias, std::int64_t width);
  /// product = silu(gate) * up.
  void (*swiglu)(const T* gate, const T* up, std::int64_t count, T* product);
  /// In: gate, up and d(product). Out, in their places: d(gate), d(up) and the product itself.
  void (*swiglu_backward)(T* gate, T* up, T* product, std::int64_t count);
  /// out = max(x, 0).
  void (*relu)(const T* x, std::int64_t count, T* out);
  /// In: x and d(out). Out, in their places: d(x) and out itself.
  void (*relu_backward)(T* x, T* out, std::int64_t count);
  /// Returns log(sum exp(logits)) - logits[target]. Unless null, gradient = (softmax(logits) - onehot(target)) * scale;
  /// it may be logits when T is f32.
  double (*nll)(const float* logits, std::int64_t vocab, std::int64_t target, float scale, T* gradient);
  /// Returns KL(reference || model). Unless null, gradient = (softmax(logits) - softmax(reference)) * scale. same_top:
  /// whether both have the same first maximum.
  double (*kl)(const float* logits, const float* reference, std::int64_t vocab, float scale, T* gradient,
               bool* same_top);
  /// One query's scores → its weights over keys [begin, end), zero elsewhere in [0, width). Returns the logarithm of
  /// the sum of exponentials. Overwrites scores; weights may be scores when T is f32.
  float (*softmax)(float* scores, std::int64_t begin, std::int64_t end, std::int64_t width, T* weights);
  /// From scores, their log_sum and d(weights): the weights again, and d(scores) = weights * (d(weights) - shift),
  /// where shift is sum(weights * d(weights)). Outputs may be the inputs when T is f32.
  void (*softmax_backward)(const float* scores, const float* d_weights, std::int64_t begin, std::int64_t end,
                           std::int64_t width, float log_sum, float shift, T* weights, T* d_scores);
  float (*dot)(const T* a, const T* b, std::int64_t count);
  void (*from_f32)(const float* in, std::int64_t count, T* out);
  void (*to_f32)(const T* in, std::int64_t count, float* out);
  /// out = x + delta; out may be x.
  void (*sum)(const float* x, const T* delta, std::int64_t count, float* out);
};

template <typename T>
const RowKernels<T>& row_kernels();

namespace portable {
template <typename T>
RowKernels<T> table();
}
namespace avx2 {
template <typename T>
RowKernels<T> table();
}
namespace avx512 {
template <typename T>
RowKernels<T> table();
}

}  // namespace scalebits
