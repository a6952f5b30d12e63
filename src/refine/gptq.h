// GPTQ (arXiv 2210.17323) on a matrix in stored order, each block at its own width: weights are rounded column by
// column, and what a column's rounding costs the outputs is taken back by the columns that are not rounded yet. A
// group's scale and zero are chosen when its first column is reached, for the weights as they are by then.
#pragma once

#include "rounding/coded_matrix.h"
#include "rounding/rounded_matrix.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace scalebits {

/// H + damping · mean(diag H) · I, H = Σ xxᵀ [n, n] f64; the identity where H is zeros. Throws Error(bad_input) naming
/// `where` when H is not finite.
at::Tensor damped_hessian(const at::Tensor& moments, double damping, const std::string& where);

/// The upper Cholesky factor U of the inverse of `hessian` [n, n] f64, so that UᵀU is the inverse; f32. U_jj² is the
/// inverse of what a unit error in column j costs when all columns behind it take back what they can.
at::Tensor inverse_factor(const at::Tensor& hessian);

/// `weights` [rows, cols] f32, rows and columns in stored order, is what to come near to (changed on the way);
/// `factor` as above, in stored order.
CodedMatrix round_with_feedback(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, at::Tensor weights,
                                const at::Tensor& factor, bool clip_search);

}  // namespace scalebits
