#include "refine/code_descent.h"

#include "core/error.h"
#include "core/lanes.h"
#include "core/parallel.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

constexpr std::int64_t kRowsPerTask = 8;

/// What a group's codes stand for: (code - zero) * scale, codes from 0 to `top`.
struct GroupGrid {
  float scale, zero, top;
};

SCALEBITS_CLONES
void subtract_values(float* errors, const std::uint8_t* codes, std::int64_t count, const GroupGrid& grid) {
  for (std::int64_t j = 0; j < count; ++j) errors[j] -= (static_cast<float>(codes[j]) - grid.zero) * grid.scale;
}

/// Each weight of a group goes to its best code beside all others. `slope` is e H of the group's columns, e being the
/// errors of the whole row; `hessian` the group's diagonal block, its rows `stride` apart.
SCALEBITS_CLONES
void descend_group(std::uint8_t* codes, float* errors, float* slope, std::int64_t count, const float* hessian,
                   std::int64_t stride, const GroupGrid& grid) {
  const float inverse = 1.0f / grid.scale;
  for (std::int64_t j = 0; j < count; ++j) {
    const float* row = hessian + j * stride;
    if (!(row[j] > 0)) continue;  // inputs so small that their square is none in f32: any code will do
    const float before = static_cast<float>(codes[j]);
    float code = before + slope[j] / row[j] * inverse;
    code = std::nearbyintf(code < 0.0f ? 0.0f : code > grid.top ? grid.top : code);
    if (code == before) continue;
    const float step = (code - before) * grid.scale;
    codes[j] = static_cast<std::uint8_t>(code);
    errors[j] -= step;
    for (std::int64_t k = 0; k < count; ++k) slope[k] -= step * row[k];
  }
}

}  // namespace

void descend_codes(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, const at::Tensor& target,
                   const at::Tensor& hessian, int sweeps, CodedMatrix& coded) {
  const MatrixFormat& format = matrix.format();
  SCALEBITS_ASSERT(target.size(0) == format.rows && target.size(1) == format.cols && hessian.is_contiguous() &&
                   hessian.size(0) == format.cols);
  if (sweeps == 0) return;
  const at::Tensor errors = target.clone(at::MemoryFormat::Contiguous);  // of a dropped group all of it
  const at::Tensor slopes = at::empty({format.rows, format.group_cols}, at::kFloat);
  // body(codes, errors, slope, grid) of every row's group whose block has a width.
  const auto each_row = [&](std::int64_t group, const auto& body) {
    const std::int64_t first = group * format.group_cols;
    parallel_for(divide_up(format.rows, kRowsPerTask), [&](std::int64_t task) {
      for (std::int64_t row = task * kRowsPerTask; row < std::min(format.rows, (task + 1) * kRowsPerTask); ++row) {
        const int bits = matrix.width_of(widths, row, group);
        if (bits == 0) continue;
        const GroupCode code = coded.group(row, group);
        const GroupGrid grid{matrix.side().scale(code.scale, bits), matrix.side().zero(code.zero, bits),
                             static_cast<float>((1 << bits) - 1)};
        body(coded.row_codes(row) + first, errors.data_ptr<float>() + row * format.cols + first,
             slopes.data_ptr<float>() + row * format.group_cols, grid);
      }
    });
  };
  const auto count_of = [&](std::int64_t group) {
    return std::min<std::int64_t>(format.group_cols, format.cols - group * format.group_cols);
  };
  for (std::int64_t group = 0; group < matrix.groups_per_row(); ++group)
    each_row(group, [&](std::uint8_t* codes, float* own_errors, float*, const GroupGrid& grid) {
      subtract_values(own_errors, codes, count_of(group), grid);
    });
  for (int sweep = 0; sweep < sweeps; ++sweep)
    for (std::int64_t group = 0; group < matrix.groups_per_row(); ++group) {
      const std::int64_t first = group * format.group_cols, count = count_of(group);
      at::Tensor slope = slopes.narrow(1, 0, count);
      at::matmul_out(slope, errors, hessian.narrow(1, first, count));
      const float* block = hessian.const_data_ptr<float>() + first * format.cols + first;
      each_row(group, [&](std::uint8_t* codes, float* own_errors, float* own_slope, const GroupGrid& grid) {
        descend_group(codes, own_errors, own_slope, count, block, format.cols, grid);
      });
    }
}

}  // namespace scalebits
