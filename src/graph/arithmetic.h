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

/// Each as the function of its name, which is the host's.
struct Arithmetic {
  decltype(&scalebits::add_norm) add_norm;
  decltype(&scalebits::norm_backward) norm_backward;
  decltype(&scalebits::head_norm) head_norm;
  decltype(&scalebits::head_norm_backward) head_norm_backward;
  decltype(&scalebits::add_bias) add_bias;
  decltype(&scalebits::swiglu) swiglu;
  decltype(&scalebits::swiglu_backward) swiglu_backward;
  decltype(&scalebits::relu) relu;
  decltype(&scalebits::relu_backward) relu_backward;
  decltype(&scalebits::add) add;
  decltype(&scalebits::convert) convert;
  decltype(&scalebits::rotate) rotate;
  decltype(&scalebits::product_forward) product_forward;
  decltype(&scalebits::product_input_gradient) product_input_gradient;
  decltype(&scalebits::product_weight_gradient) product_weight_gradient;
  decltype(&scalebits::attend) attend;
  decltype(&scalebits::attend_backward) attend_backward;
  decltype(&scalebits::token_losses) token_losses;
  decltype(&scalebits::add_embedding_gradient) add_embedding_gradient;
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
