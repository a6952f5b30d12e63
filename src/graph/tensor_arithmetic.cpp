#include "graph/tensor_arithmetic.h"

#include <ATen/ATen.h>

namespace scalebits {
namespace tensors {
namespace {

at::Tensor f32(const at::Tensor& tensor) { return tensor.to(at::kFloat); }

/// body(part) over all rows of tensors that are equally long; part(tensor) are its rows of the moment, an undefined
/// tensor staying so.
template <typename Body>
void for_pieces(const at::Tensor& like, Body&& body) {
  const std::int64_t width = like.size(-1);
  for_row_pieces(like.numel() / width, width, kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    body([=](const at::Tensor& tensor) {
      return tensor.defined() ? tensor.view({-1, width}).narrow(0, first, count) : tensor;
    });
  });
}

/// Rows less their mean where the norm is a LayerNorm.
at::Tensor centred(const at::Tensor& x, bool subtract_mean) { return subtract_mean ? x - x.mean(-1, true) : x; }

/// 1 / sqrt(mean of squares + eps) of each row, [rows, 1].
at::Tensor inverse_root_mean_square(const at::Tensor& x, double eps) {
  return x.mul(x).mean(-1, true).add_(static_cast<float>(eps)).sqrt_().reciprocal_();
}

/// J(x)^T dout of out = c / rms(c) * weight with c = centred(x): with g = weight * dout,
/// scale * (g - mean(g)) - c * scale^3 * mean(g c), mean(g) for LayerNorms only.
at::Tensor norm_gradient(const at::Tensor& dout, const at::Tensor& x, const at::Tensor& weight, double eps,
                         bool layer_norm) {
  const at::Tensor c = centred(x, layer_norm), scale = inverse_root_mean_square(c, eps);
  at::Tensor slope = f32(dout) * weight;
  const at::Tensor along = scale.pow(3).mul_(slope.mul(c).mean(-1, true));
  if (layer_norm) slope = slope - slope.mean(-1, true);
  return slope.mul(scale).sub_(c.mul(along));
}

void add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& norm, const at::Tensor& sum,
              const at::Tensor& out) {
  for_pieces(x, [&](const auto& part) {
    at::Tensor rows = part(x);
    if (delta.defined()) {
      at::Tensor total = part(sum);
      rows = at::add_out(total, rows, part(delta));
    }
    rows = centred(rows, norm.bias.defined());
    at::Tensor normed = rows.mul(inverse_root_mean_square(rows, norm.eps)).mul_(norm.weight);
    if (norm.bias.defined()) normed.add_(norm.bias);
    part(out).copy_(normed);
  });
}

void norm_backward(const at::Tensor& dout, const at::Tensor& x, const Norm& norm, const at::Tensor& dx,
                   const at::Tensor& dx_rounded) {
  for_pieces(x, [&](const auto& part) {
    const at::Tensor sum =
        part(dx).add_(norm_gradient(part(dout), part(x), norm.weight, norm.eps, norm.bias.defined()));
    if (dx_rounded.defined()) part(dx_rounded).copy_(sum);
  });
}

/// Rows of heads as rows of their own.
at::Tensor heads_of(const at::Tensor& rows, const at::Tensor& weight) { return rows.view({-1, weight.size(0)}); }

void head_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& out) {
  const at::Tensor heads = heads_of(x, weight), to = heads_of(out, weight);
  for_pieces(heads, [&](const auto& part) {
    const at::Tensor rows = f32(part(heads));
    part(to).copy_(rows.mul(inverse_root_mean_square(rows, eps)).mul_(weight));
  });
}

void head_norm_backward(const at::Tensor& dout, const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor heads = heads_of(x, weight), to = heads_of(dout, weight);
  for_pieces(heads,
             [&](const auto& part) { part(to).copy_(norm_gradient(part(to), f32(part(heads)), weight, eps, false)); });
}

void add_bias(const at::Tensor& rows, const at::Tensor& bias) {
  for_pieces(rows, [&](const auto& part) { part(rows).add_(bias); });
}

void swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& product) {
  for_pieces(gate, [&](const auto& part) {
    const at::Tensor g = f32(part(gate));
    part(product).copy_(g.mul(g.sigmoid()).mul_(part(up)));
  });
}

void swiglu_backward(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& product) {
  for_pieces(gate, [&](const auto& part) {
    const at::Tensor g = f32(part(gate)), s = g.sigmoid(), silu = g.mul(s);
    const at::Tensor u = f32(part(up)).clone(), d = f32(part(product)).clone();
    const at::Tensor slope = s.mul(g.mul(1 - s).add_(1));
    part(gate).copy_(slope.mul_(d).mul_(u));
    part(product).copy_(silu.mul(u));
    part(up).copy_(silu.mul(d));
  });
}

void relu(const at::Tensor& x, const at::Tensor& out) {
  for_pieces(x, [&](const auto& part) { part(out).copy_(part(x).clamp_min(0)); });
}

void relu_backward(const at::Tensor& x, const at::Tensor& out) {
  for_pieces(x, [&](const auto& part) {
    const at::Tensor positive = part(x).clamp_min(0), gradient = part(out).masked_fill(positive.eq(0), 0);
    part(x).copy_(gradient);
    part(out).copy_(positive);
  });
}

void add(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum) {
  at::Tensor out = sum;
  at::add_out(out, x, delta);
}

void convert(const at::Tensor& from, const at::Tensor& to) { to.copy_(from.view_as(to)); }

void rotate(const RopeTable& table, const at::Tensor& rows, std::int64_t length, std::int64_t first, float sign) {
  const std::int64_t half = table.cosines().size(1), width = rows.size(-1), windows = rows.numel() / width / length;
  const at::Tensor cosines = table.cosines().narrow(0, first, length).view({1, length, 1, half}),
                   sines = table.sines().narrow(0, first, length).view({1, length, 1, half}) * sign;
  const at::Tensor pairs = rows.view({windows, length, width / (2 * half), 2 * half});
  for_row_pieces(windows, length * width, kTensorPiece, [&](std::int64_t from, std::int64_t count) {
    const at::Tensor low = pairs.narrow(0, from, count).narrow(3, 0, half),
                     high = pairs.narrow(0, from, count).narrow(3, half, half);
    const at::Tensor turned = low.mul(cosines).sub_(high.mul(sines));
    high.copy_(low.mul(sines).add_(high.mul(cosines)));
    low.copy_(turned);
  });
}

void multiply(const at::Tensor& a, const at::Tensor& b, at::Tensor out, bool accumulate) {
  accumulate ? at::addmm_out(out, out, a, b) : at::mm_out(out, a, b);
}

bool mixed(const at::Tensor& operand, const at::Tensor& result) {
  return operand.scalar_type() != result.scalar_type();
}

// No product of torch's gives f32 of bf16 operands on every device, so where that is wanted the operands are widened.

void product_forward(const at::Tensor& x, const at::Tensor& w, const at::Tensor& out) {
  const ProductPrecision precision(x.scalar_type() == at::kBFloat16);
  if (!mixed(x, out)) return multiply(x, w.t(), out, false);
  const at::Tensor wide = f32(x);
  for_row_pieces(w.size(0), w.size(1), kOperandPiece, [&](std::int64_t first, std::int64_t count) {
    out.narrow(1, first, count).copy_(wide.mm(f32(w.narrow(0, first, count)).t()));
  });
}

void product_input_gradient(const at::Tensor& dy, const at::Tensor& w, const at::Tensor& dx, bool accumulate) {
  const ProductPrecision precision(dy.scalar_type() == at::kBFloat16);
  if (!mixed(dy, dx)) return multiply(dy, w, dx, accumulate);
  const at::Tensor wide = f32(w);
  for_row_pieces(dy.size(0), dy.size(1), kOperandPiece, [&](std::int64_t first, std::int64_t count) {
    multiply(f32(dy.narrow(0, first, count)), wide, dx.narrow(0, first, count), accumulate);
  });
}

void product_weight_gradient(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& gradient, bool accumulate) {
  const ProductPrecision precision(dy.scalar_type() == at::kBFloat16);
  if (!mixed(dy, gradient)) return multiply(dy.t(), x, gradient, accumulate);
  for_row_pieces(dy.size(0), dy.size(1) + x.size(1), kOperandPiece, [&](std::int64_t first, std::int64_t count) {
    multiply(f32(dy.narrow(0, first, count)).t(), f32(x.narrow(0, first, count)), gradient, accumulate || first > 0);
  });
}

}  // namespace
}  // namespace tensors

ProductPrecision::ProductPrecision(bool operands_are_bf16) : before_(at::globalContext().allowTF32CuBLAS()) {
  at::globalContext().setAllowTF32CuBLAS(operands_are_bf16);
}
ProductPrecision::~ProductPrecision() { at::globalContext().setAllowTF32CuBLAS(before_); }

const Arithmetic& tensor_arithmetic() {
  static constexpr Arithmetic kTable{.add_norm = tensors::add_norm,
                                     .norm_backward = tensors::norm_backward,
                                     .head_norm = tensors::head_norm,
                                     .head_norm_backward = tensors::head_norm_backward,
                                     .add_bias = tensors::add_bias,
                                     .swiglu = tensors::swiglu,
                                     .swiglu_backward = tensors::swiglu_backward,
                                     .relu = tensors::relu,
                                     .relu_backward = tensors::relu_backward,
                                     .add = tensors::add,
                                     .convert = tensors::convert,
                                     .rotate = tensors::rotate,
                                     .product_forward = tensors::product_forward,
                                     .product_input_gradient = tensors::product_input_gradient,
                                     .product_weight_gradient = tensors::product_weight_gradient,
                                     .attend = tensors::attend,
                                     .attend_backward = tensors::attend_backward,
                                     .token_losses = tensors::token_losses,
                                     .look_up = tensors::look_up,
                                     .add_embedding_gradient = tensors::add_embedding_gradient};
  return kTable;
}

ComputePlace tensor_place(at::Device device) {
  // Long sums of bf16 products stay f32 when they are cut over blocks of a card, too.
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
  return {device, &tensor_arithmetic(), true};
}

}  // namespace scalebits
