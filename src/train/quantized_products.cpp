#include "train/quantized_products.h"

#include <fmt/format.h>

namespace scalebits {
namespace {

at::Tensor weight_operand(NumberFormat format, Tiling tiling, const at::Tensor& w, at::ScalarType operand,
                          const ProductContext& context) {
  if (format != NumberFormat::bf16)
    return put_on_grid({.format = format, .tiling = tiling, .is_weight = true}, w, operand, "quantized weight",
                       context);
  if (operand == at::kFloat) return w;
  const at::Tensor rounded = context.workspace.take("rounded weight", w.sizes(), operand);
  context.place.arithmetic->convert(w, rounded);
  return rounded;
}

at::Tensor gradient_operand(const ProductRounding& rounding, Tiling tiling, const at::Tensor& dy,
                            const ProductContext& context) {
  if (rounding.format == NumberFormat::bf16) return dy;
  return put_on_grid(
      {.format = rounding.format, .tiling = tiling, .stochastic = is_fp4(rounding.format), .key = rounding.key}, dy,
      dy.scalar_type(), "quantized gradient", context);
}

}  // namespace

at::Tensor put_on_grid(const FakeQuantize& how, const at::Tensor& tensor, at::ScalarType operand, const char* name,
                       const ProductContext& context) {
  const at::Tensor out = context.workspace.take(name, tensor.sizes(), operand);
  context.place.train->fake_quantize(how, tensor, out);
  return out;
}

const at::Tensor& ProductInput::quantized(NumberFormat format, Tiling tiling) {
  if (format == NumberFormat::bf16) return x_;
  at::Tensor& kept = quantized_[static_cast<std::size_t>(format)][tiling == Tiling::along_rows ? 0 : 1];
  if (!kept.defined()) {
    const std::string name = fmt::format("input in {} {}", name_of(format), static_cast<int>(tiling));
    kept = put_on_grid({.format = format, .tiling = tiling}, x_, x_.scalar_type(), name.c_str(), context_);
  }
  return kept;
}

const Fp8Operand& ProductInput::fp8(Tiling tiling) {
  Fp8Operand& kept = fp8_[tiling == Tiling::along_rows ? 0 : 1];
  if (!kept.codes.defined()) kept = fp8_operand(tiling == Tiling::along_rows ? x_ : x_.t());
  return kept;
}

void quantized_forward(const ProductRounding& rounding, ProductInput& x, const at::Tensor& w, const at::Tensor& y,
                       const ProductContext& context) {
  if (context.multiplies_fp8(rounding.format))
    return context.place.fp8_product(x.fp8(Tiling::along_rows), fp8_weight(w), y, false);
  context.place.arithmetic->product_forward(
      x.quantized(rounding.format, Tiling::along_rows),
      weight_operand(rounding.format, Tiling::along_rows, w, x.exact().scalar_type(), context), y);
}

void quantized_input_gradient(const ProductRounding& rounding, const at::Tensor& dy, const at::Tensor& w,
                              const at::Tensor& dx, bool accumulate, const ProductContext& context) {
  if (context.multiplies_fp8(rounding.format))
    return context.place.fp8_product(fp8_operand(dy), fp8_weight(w.t()), dx, accumulate);
  context.place.arithmetic->product_input_gradient(
      gradient_operand(rounding, Tiling::along_rows, dy, context),
      weight_operand(rounding.format, Tiling::down_columns, w, dy.scalar_type(), context), dx, accumulate);
}

void quantized_weight_gradient(const ProductRounding& rounding, const at::Tensor& dy, ProductInput& x,
                               const at::Tensor& dw, const ProductContext& context) {
  if (context.multiplies_fp8(rounding.format))
    return context.place.fp8_product(fp8_operand(dy.t()), x.fp8(Tiling::down_columns), dw, false);
  context.place.arithmetic->product_weight_gradient(gradient_operand(rounding, Tiling::down_columns, dy, context),
                                                    x.quantized(rounding.format, Tiling::down_columns), dw, false);
}

}  // namespace scalebits
