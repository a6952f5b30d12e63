// Real FP8 products: operands of E4M3 codes under the recipe's scales (1x128 along the contracted dimension for inputs
// and gradients, 128x128 for weights), multiplied by libtorch's scaled products. On a card of compute capability 9.0
// that is one block-scaled product of cuBLAS; on the processor, where libtorch takes a scale per row and works in f32
// inside, slices of 128 of the contracted dimension are added up, to test all else. Sums are f32 or, on the card, what
// its FP8 units keep.
#pragma once

#include <ATen/core/Tensor.h>

namespace scalebits {

/// A matrix that a product contracts over the columns of.
struct Fp8Operand {
  at::Tensor codes;   // [rows, k] E4M3, contiguous
  at::Tensor scales;  // [rows, ceil(k / 128)] f32 or, of a weight, [ceil(rows / 128), ceil(k / 128)]
};

/// matrix [rows, k] f32 or bf16, of any strides; an input, or a gradient of outputs.
Fp8Operand fp8_operand(const at::Tensor& matrix);
Fp8Operand fp8_weight(const at::Tensor& matrix);

/// out [m, n] f32 or bf16 = a b^T, or out += a b^T. a [m, k]: no weight; b [n, k].
using Fp8Product = void (*)(const Fp8Operand& a, const Fp8Operand& b, const at::Tensor& out, bool accumulate);
/// One block-scaled product.
void fp8_product_of_blocks(const Fp8Operand& a, const Fp8Operand& b, const at::Tensor& out, bool accumulate);
/// One product under scales of rows for each slice of the contracted dimension that shares its scales.
void fp8_product_of_slices(const Fp8Operand& a, const Fp8Operand& b, const at::Tensor& out, bool accumulate);

/// The product that `device` makes, found out by making some. Throws Error(unsupported_hardware) with libtorch's words
/// where it makes none, or none that is right.
Fp8Product fp8_product_on(at::Device device);

}  // namespace scalebits
