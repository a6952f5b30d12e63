// The gradient of an RMSNorm's weight, which the decoder of the graph room has no use for.
#pragma once

#include <ATen/core/Tensor.h>

namespace scalebits {

/// gradient [width] f32 = Σ_t dout[t] · x[t] / rms(x[t]), overwritten. dout [tokens, width] f32 or bf16, x [tokens,
/// width] f32. Sums are made in pieces of fixed size, so the result does not depend on the number of threads.
void norm_weight_gradient(const at::Tensor& dout, const at::Tensor& x, double eps, const at::Tensor& gradient);

}  // namespace scalebits
