// Codes after GPTQ, which rounds each column once and never comes back to it: coordinate descent on what a row's
// rounding costs, (w - q) H (w - q)^T, takes column after column to the code that is best beside all others, in a few
// sweeps (as QuantEase does, arXiv 2309.01885). Ranges and zeros stay. Never makes a row's cost greater.
#pragma once

#include "rounding/coded_matrix.h"
#include "rounding/rounded_matrix.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace scalebits {

/// `target` [rows, cols] and `hessian` [cols, cols], symmetric: f32, in stored order.
void descend_codes(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, const at::Tensor& target,
                   const at::Tensor& hessian, int sweeps, CodedMatrix& coded);

}  // namespace scalebits
