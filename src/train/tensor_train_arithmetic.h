// The train room's operations in plain tensor operations, for tensors on any device. Values on a format's grid and
// random draws are the host's to the bit; sums are made in another order. Temporaries stay within pieces, as in
// graph/tensor_arithmetic.h, and no operation adds with atomics, so two runs on one device give the same bits.
#pragma once

#include "train/train_arithmetic.h"

#include <cstdint>
#include <functional>

namespace scalebits::tensors {

/// The words that core's counter-based draws give elements `places` (int64) under `key`, as int64 in [0, 2^32).
at::Tensor random_words(const at::Tensor& places, std::uint64_t key);

/// A band of whole tiles of scale of a matrix.
struct GridBand {
  std::int64_t first_row, rows, cols;  // of the matrix
  at::Tensor units;   // [tiles down, height, tiles across, width] f32: the elements in units of the scale,
                      // rounded to the element type; behind the matrix' edge zeros
  at::Tensor scales;  // [tiles down, 1, tiles across, 1] f32

  /// The part of a tensor like `units` that lies in the matrix: [rows, cols].
  at::Tensor inside(const at::Tensor& tiled) const;
};
/// The bands of `matrix` [rows, cols] (f32 or bf16, of any strides) from its first row to its last.
void for_grid_bands(const FakeQuantize& how, const at::Tensor& matrix,
                    const std::function<void(const GridBand&)>& take);

void fake_quantize(const FakeQuantize& how, const at::Tensor& in, const at::Tensor& out);
void norm_weight_gradient(const at::Tensor& dout, const at::Tensor& x, double eps, const at::Tensor& gradient);
double gradient_norm(const Parameters& parameters);
void adamw_update(Parameters& parameters, const AdamWOptions& options, const AdamWStep& step);
double squared_update_change(const Parameter& parameter, const AdamWOptions& adamw, const AdamWStep& update,
                             const at::Tensor& gradient, const at::Tensor& changed);
double squared_norm(const at::Tensor& a);
double inner_product(const at::Tensor& a, const at::Tensor& b);
double squared_distance(const at::Tensor& a, const at::Tensor& b);
void add_noise(const at::Tensor& tensor, const Noise& noise);

}  // namespace scalebits::tensors
