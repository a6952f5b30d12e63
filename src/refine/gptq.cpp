#include "refine/gptq.h"

#include "core/error.h"
#include "core/lanes.h"
#include "core/parallel.h"
#include "rounding/group_codes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace scalebits {
namespace {

constexpr std::int64_t kRowsPerTask = 8;

/// One group of one row. `factor` points at its diagonal block, rows `stride` apart. errors[j] = (w_j − value) / U_jj.
SCALEBITS_CLONES
void round_group(float* weights, std::int64_t count, const float* factor, std::int64_t stride, float scale, float zero,
                 float top_code, std::uint8_t* codes, float* errors) {
  const float inverse = 1.0f / scale;
  for (std::int64_t j = 0; j < count; ++j) {
    const float* row = factor + j * stride;
    float code = weights[j] * inverse + zero;
    code = code < 0.0f ? 0.0f : code > top_code ? top_code : code;
    code = std::nearbyintf(code);
    codes[j] = static_cast<std::uint8_t>(code);
    const float error = (weights[j] - (code - zero) * scale) / row[j];
    errors[j] = error;
    for (std::int64_t k = j + 1; k < count; ++k) weights[k] -= error * row[k];
  }
}

/// A dropped group: every value is 0.
SCALEBITS_CLONES
void drop_group(float* weights, std::int64_t count, const float* factor, std::int64_t stride, float* errors) {
  for (std::int64_t j = 0; j < count; ++j) {
    const float* row = factor + j * stride;
    const float error = weights[j] / row[j];
    errors[j] = error;
    for (std::int64_t k = j + 1; k < count; ++k) weights[k] -= error * row[k];
  }
}

/// In place: the inverse of [[A, 0], [B, C]] is [[A^-1, 0], [-C^-1 B A^-1, C^-1]], nearly all of it products.
void invert_lower(const at::Tensor& lower) {
  constexpr std::int64_t kSmall = 256;
  const std::int64_t size = lower.size(0), half = size / 2;
  if (size <= kSmall) {
    lower.copy_(at::linalg_solve_triangular(lower, at::eye(size, lower.options()), false));
    return;
  }
  const at::Tensor a = lower.narrow(0, 0, half).narrow(1, 0, half);
  const at::Tensor b = lower.narrow(0, half, size - half).narrow(1, 0, half);
  const at::Tensor c = lower.narrow(0, half, size - half).narrow(1, half, size - half);
  invert_lower(a);
  invert_lower(c);
  b.copy_(at::matmul(c, at::matmul(b, a)).neg_());
}

}  // namespace

at::Tensor damped_hessian(const at::Tensor& moments, double damping, const std::string& where) {
  const double mean = moments.diagonal().mean().item<double>();
  if (!std::isfinite(moments.sum().item<double>())) fail_input("{}: its inputs are not finite", where);
  if (mean <= 0) return at::eye(moments.size(0), at::kDouble);
  at::Tensor hessian = moments.clone();
  hessian.diagonal().add_(damping * mean);
  return hessian;
}

at::Tensor inverse_factor(const at::Tensor& hessian) {
  // With J the reversal of rows: J H J = L L^T, so H = (J L J)(J L J)^T, and U = (J L J)^-1 = J L^-1 J is upper.
  const at::Tensor lower = at::linalg_cholesky(hessian.flip({0, 1})).to(at::kFloat);
  invert_lower(lower);
  return lower.flip({0, 1}).contiguous();
}

CodedMatrix round_with_feedback(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, at::Tensor weights,
                                const at::Tensor& factor, bool clip_search) {
  const MatrixFormat& format = matrix.format();
  SCALEBITS_ASSERT(weights.is_contiguous() && weights.size(0) == format.rows && weights.size(1) == format.cols &&
                   factor.is_contiguous() && factor.size(0) == format.cols);
  const SideTable& side = matrix.side();
  CodedMatrix coded(format);
  const auto group_cols = static_cast<std::size_t>(format.group_cols);
  const at::Tensor errors = at::empty({format.rows, format.group_cols}, at::kFloat);
  const auto* u = factor.const_data_ptr<float>();
  for (std::int64_t group = 0; group < matrix.groups_per_row(); ++group) {
    const std::int64_t first = group * format.group_cols,
                       count = std::min<std::int64_t>(format.group_cols, format.cols - first);
    const float* diagonal_block = u + first * format.cols + first;
    std::vector<float> importance(group_cols, 0.0f);
    for (std::int64_t j = 0; j < count; ++j) {
      const float pivot = diagonal_block[j * format.cols + j];
      importance[static_cast<std::size_t>(j)] = 1.0f / (pivot * pivot);
    }
    parallel_for(divide_up(format.rows, kRowsPerTask), [&](std::int64_t task) {
      std::vector<float> values(group_cols), weighting(group_cols);
      const std::int64_t end = std::min(format.rows, (task + 1) * kRowsPerTask);
      for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
        float* w = weights.data_ptr<float>() + row * format.cols + first;
        float* e = errors.data_ptr<float>() + row * format.group_cols;
        const int bits = matrix.width_of(widths, row, group);
        if (bits == 0) {
          drop_group(w, count, diagonal_block, format.cols, e);
          continue;
        }
        std::copy_n(w, count, values.begin());
        weighting = importance;
        if (count < format.group_cols) pad_group(values, weighting, count);
        const GroupCode code = choose_group_code(side, bits, values, weighting, clip_search).code;
        coded.group(row, group) = code;
        round_group(w, count, diagonal_block, format.cols, side.scale(code.scale, bits), side.zero(code.zero, bits),
                    static_cast<float>((1 << bits) - 1), coded.row_codes(row) + first, e);
      }
    });
    if (const std::int64_t behind = first + count; behind < format.cols)
      weights.narrow(1, behind, format.cols - behind)
          .addmm_(errors.narrow(1, 0, count), factor.narrow(0, first, count).narrow(1, behind, format.cols - behind), 1,
                  -1);
  }
  return coded;
}

}  // namespace scalebits
