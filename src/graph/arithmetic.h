// What a pass does with tensors between asking for weights and handing gradients over, as a table of functions. There
// are two with the same contracts: row kernels and MKL for host memory, and plain tensor operations for tensors on any
// device. A decoder takes one when it is made; nothing in its passes asks which.
#pragma once

#include "graph/attention.h"
#include "graph/elementwise.h"
#include "graph/embedding.h"
#include "graph/product.h"
#include "graph/rope.h"
#include "graph/token_losses.h"

#include <c10/core/Device.h>

#include <cstdint>

namespace scalebits {

/// Each as the function of its name in the headers above, which is the host's.
struct Arithmetic {
  using Tensor = at::Tensor;
  void (*add_norm)(const Tensor& x, const Tensor& delta, const Norm& norm, const Tensor& sum, const Tensor& out);
  void (*norm_backward)(const Tensor& dout, const Tensor& x, const Norm& norm, const Tensor& dx,
                        const Tensor& dx_rounded);
  void (*head_norm)(const Tensor& x, const Tensor& weight, double eps, const Tensor& out);
  void (*head_norm_backward)(const Tensor& dout, const Tensor& x, const Tensor& weight, double eps);
  void (*add_bias)(const Tensor& rows, const Tensor& bias);
  void (*swiglu)(const Tensor& gate, const Tensor& up, const Tensor& product);
  void (*swiglu_backward)(const Tensor& gate, const Tensor& up, const Tensor& product);
  void (*relu)(const Tensor& x, const Tensor& out);
  void (*relu_backward)(const Tensor& x, const Tensor& out);
  void (*add)(const Tensor& x, const Tensor& delta, const Tensor& sum);
  void (*convert)(const Tensor& from, const Tensor& to);
  void (*rotate)(const RopeTable& table, const Tensor& rows, std::int64_t length, std::int64_t first, float sign);
  void (*product_forward)(const Tensor& x, const Tensor& w, const Tensor& out);
  void (*product_input_gradient)(const Tensor& dy, const Tensor& w, const Tensor& dx, bool accumulate);
  void (*product_weight_gradient)(const Tensor& dy, const Tensor& x, const Tensor& gradient, bool accumulate);
  void (*attend)(const Attention& tensors);
  void (*attend_backward)(const Attention& tensors, const AttentionGradient& gradient);
  void (*token_losses)(const LogitRows& rows, std::span<float> losses, std::span<std::uint8_t> same_top);
  void (*look_up)(const Tensor& table, const Tensor& ids, const Tensor& rows);
  void (*add_embedding_gradient)(const Tensor& ids, const Tensor& rows, bool squared, const Tensor& table);
};

const Arithmetic& host_arithmetic();

/// Where a decoder's tensors lie and what works on them.
struct ComputePlace {
  at::Device device = at::kCPU;
  const Arithmetic* arithmetic = &host_arithmetic();
  /// What lies in host memory must be sent. Then a batch whose layer inputs do not fit keeps them there.
  bool separate_memory = false;
};

}  // namespace scalebits
