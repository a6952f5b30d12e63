#include "train/quantized_products.h"

#include "core/error.h"
#include "graph/elementwise.h"
#include "graph/product.h"

#include <fmt/format.h>

namespace scalebits {
namespace {

at::Tensor weight_operand(NumberFormat format, Tiling tiling, const at::Tensor& w, at::ScalarType operand,
                          Workspace& workspace) {
  if (format != NumberFormat::bf16)
    return put_on_grid({.format = format, .tiling = tiling, .is_weight = true}, w, operand, "quantized weight",
                       workspace);
  if (operand == at::kFloat) return w;
  const at::Tensor rounded = workspace.take("rounded weight", w.sizes(), operand);
  convert(w, rounded);
  return rounded;
}

at::Tensor gradient_operand(const ProductRounding& rounding, Tiling tiling, const at::Tensor& dy,
                            Workspace& workspace) {
  if (rounding.format == NumberFormat::bf16) return dy;
  return put_on_grid(
      {.format = rounding.format, .tiling = tiling, .stochastic = is_fp4(rounding.format), .key = rounding.key}, dy,
      dy.scalar_type(), "quantized gradient", workspace);
}

}  // namespace

at::Tensor put_on_grid(const FakeQuantize& how, const at::Tensor& tensor, at::ScalarType operand, const char* name,
                       Workspace& workspace) {
  const std::int64_t rows = tensor.size(0), cols = tensor.size(1);
  const at::Tensor out = workspace.take(name, tensor.sizes(), operand);
  if (operand == at::kFloat) {
    SCALEBITS_ASSERT(tensor.scalar_type() == at::kFloat);
    fake_quantize(how, data_of<float>(tensor), rows, cols, data_of<float>(out));
  } else if (tensor.scalar_type() == at::kFloat) {
    fake_quantize(how, data_of<float>(tensor), rows, cols, data_of<Bf16>(out));
  } else {
    fake_quantize(how, data_of<Bf16>(tensor), rows, cols, data_of<Bf16>(out));
  }
  return out;
}

const at::Tensor& ProductInput::quantized(NumberFormat format, Tiling tiling) {
  if (format == NumberFormat::bf16) return x_;
  at::Tensor& kept = quantized_[static_cast<std::size_t>(format)][tiling == Tiling::along_rows ? 0 : 1];
  if (!kept.defined()) {
    const std::string name = fmt::format("input in {} {}", name_of(format), static_cast<int>(tiling));
    kept = put_on_grid({.format = format, .tiling = tiling}, x_, x_.scalar_type(), name.c_str(), workspace_);
  }
  return kept;
}

void quantized_forward(const ProductRounding& rounding, ProductInput& x, const at::Tensor& w, const at::Tensor& y,
                       Workspace& workspace) {
  product_forward(x.quantized(rounding.format, Tiling::along_rows),
                  weight_operand(rounding.format, Tiling::along_rows, w, x.exact().scalar_type(), workspace), y);
}

void quantized_input_gradient(const ProductRounding& rounding, const at::Tensor& dy, const at::Tensor& w,
                              const at::Tensor& dx, bool accumulate, Workspace& workspace) {
  product_input_gradient(gradient_operand(rounding, Tiling::along_rows, dy, workspace),
                         weight_operand(rounding.format, Tiling::down_columns, w, dy.scalar_type(), workspace), dx,
                         accumulate);
}

void quantized_weight_gradient(const ProductRounding& rounding, const at::Tensor& dy, ProductInput& x,
                               const at::Tensor& dw, Workspace& workspace) {
  product_weight_gradient(gradient_operand(rounding, Tiling::down_columns, dy, workspace),
                          x.quantized(rounding.format, Tiling::down_columns), dw, false);
}

}  // namespace scalebits
