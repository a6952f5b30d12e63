// The three products of a linear layer in training, each in its number format by fake quantisation: operands are put on
// the format's grid, tiles of scale running along the dimension that the product contracts over, and multiplied in the
// graph's operand type. y = x W^T contracts over inputs, dx = dy W over outputs, dW = dy^T x over tokens. FP8 products
// may be real ones instead (train/fp8_product.h); nothing else differs then.
#pragma once

#include "graph/workspace.h"
#include "train/fake_quantize.h"
#include "train/fp8_product.h"
#include "train/precision_scheme.h"
#include "train/train_arithmetic.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace scalebits {

/// Where products run and where their operands are put.
struct ProductContext {
  const TrainPlace& place;
  Workspace& workspace;

  bool multiplies_fp8(NumberFormat format) const { return format == NumberFormat::fp8 && place.fp8_product != nullptr; }
};

/// A matrix that several products read, quantised once for each format and tiling they want it in. Keep it no longer
/// than the tensor stays as it is, and one at a time for a workspace: they share buffers.
class ProductInput {
 public:
  /// x [tokens, width] in the operand type.
  ProductInput(const at::Tensor& x, const ProductContext& context) : x_(x), context_(context) {}
  const at::Tensor& exact() const { return x_; }
  /// bf16: x itself.
  const at::Tensor& quantized(NumberFormat format, Tiling tiling);
  /// In E4M3 for a real product; its tiles run along the columns of x or, contracting over tokens, of x^T.
  const Fp8Operand& fp8(Tiling tiling);

 private:
  at::Tensor x_;
  ProductContext context_;
  std::array<std::array<at::Tensor, 2>, std::size(kNumberFormats)> quantized_;
  std::array<Fp8Operand, 2> fp8_;
};

/// Rounding of one product's operands: gradients of outputs are rounded stochastically in FP4 under `key`.
struct ProductRounding {
  NumberFormat format = NumberFormat::bf16;
  std::uint64_t key = 0;
};

/// w [rows, cols] f32, x [n, cols], dy [n, rows], y, dx in the operand type or f32, dw [rows, cols] f32, overwritten;
/// dx is added to when `accumulate`.
void quantized_forward(const ProductRounding& rounding, ProductInput& x, const at::Tensor& w, const at::Tensor& y,
                       const ProductContext& context);
void quantized_input_gradient(const ProductRounding& rounding, const at::Tensor& dy, const at::Tensor& w,
                              const at::Tensor& dx, bool accumulate, const ProductContext& context);
void quantized_weight_gradient(const ProductRounding& rounding, const at::Tensor& dy, ProductInput& x,
                               const at::Tensor& dw, const ProductContext& context);

/// `tensor` (f32 or the operand type) on the grid of `how`, in `operand` type, in the workspace's buffer `name`.
at::Tensor put_on_grid(const FakeQuantize& how, const at::Tensor& tensor, at::ScalarType operand, const char* name,
                       const ProductContext& context);

}  // namespace scalebits
