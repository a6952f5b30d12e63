#include "graph/elementwise.h"

#include "core/error.h"

#include <cstring>

namespace scalebits {
namespace {

std::int64_t rows_of(const at::Tensor& tensor) { return tensor.numel() / tensor.size(-1); }

/// body(first, count) over pieces of a flat array.
template <typename Body>
void for_pieces(std::int64_t count, Body&& body) {
  constexpr std::int64_t kPiece = 16384;
  at::parallel_for(0, (count + kPiece - 1) / kPiece, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece)
      body(piece * kPiece, std::min(kPiece, count - piece * kPiece));
  });
}

}  // namespace

void add_norm(const at::Tensor& x, const at::Tensor& delta, const Norm& norm, const at::Tensor& sum,
              const at::Tensor& out) {
  const std::int64_t width = x.size(-1);
  with_kernel_type(out.scalar_type(), [&]<typename T>() {
    const auto* px = data_of<float>(x);
    const auto* pw = data_of<float>(norm.weight);
    const auto* pb = data_of<float>(norm.bias);
    const auto* pd = data_of<T>(delta);
    auto* ps = data_of<float>(sum);
    auto* po = data_of<T>(out);
    const auto eps = static_cast<float>(norm.eps);
    for_rows(rows_of(x), width, [&](std::int64_t row) {
      const std::int64_t at = row * width;
      const T* const d = pd ? pd + at : nullptr;
      float* const s = ps ? ps + at : nullptr;
      if (pb)
        row_kernels<T>().add_layer_norm(px + at, d, pw, pb, eps, width, s, po + at);
      else
        row_kernels<T>().add_norm(px + at, d, pw, eps, width, s, po + at);
    });
  });
}

void norm_backward(const at::Tensor& dout, const at::Tensor& x, const Norm& norm, const at::Tensor& dx,
                   const at::Tensor& dx_rounded) {
  const std::int64_t width = x.size(-1);
  with_kernel_type(dout.scalar_type(), [&]<typename T>() {
    const auto backward = norm.bias.defined() ? row_kernels<T>().layer_norm_backward : row_kernels<T>().norm_backward;
    const auto* pd = data_of<T>(dout);
    const auto* px = data_of<float>(x);
    const auto* pw = data_of<float>(norm.weight);
    auto* pg = data_of<float>(dx);
    auto* pr = data_of<T>(dx_rounded);
    for_rows(rows_of(x), width, [&](std::int64_t row) {
      const std::int64_t at = row * width;
      backward(pd + at, px + at, pw, static_cast<float>(norm.eps), width, pg + at, pr ? pr + at : nullptr);
    });
  });
}

void head_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const at::Tensor& out) {
  const std::int64_t width = weight.size(0);
  with_kernel_type(x.scalar_type(), [&]<typename T>() {
    const auto* px = data_of<T>(x);
    const auto* pw = data_of<float>(weight);
    auto* po = data_of<T>(out);
    for_rows(x.numel() / width, width, [&](std::int64_t row) {
      row_kernels<T>().head_norm(px + row * width, pw, static_cast<float>(eps), width, po + row * width);
    });
  });
}

void head_norm_backward(const at::Tensor& dout, const at::Tensor& x, const at::Tensor& weight, double eps) {
  const std::int64_t width = weight.size(0);
  with_kernel_type(x.scalar_type(), [&]<typename T>() {
    auto* pd = data_of<T>(dout);
    const auto* px = data_of<T>(x);
    const auto* pw = data_of<float>(weight);
    for_rows(x.numel() / width, width, [&](std::int64_t row) {
      const std::int64_t at = row * width;
      row_kernels<T>().head_norm_backward(pd + at, px + at, pw, static_cast<float>(eps), width, pd + at);
    });
  });
}

void add_bias(const at::Tensor& rows, const at::Tensor& bias) {
  const std::int64_t width = rows.size(-1);
  with_kernel_type(rows.scalar_type(), [&]<typename T>() {
    auto* pr = data_of<T>(rows);
    const auto* pb = data_of<float>(bias);
    for_rows(rows_of(rows), width, [&](std::int64_t row) { row_kernels<T>().add_bias(pr + row * width, pb, width); });
  });
}

void swiglu(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& product) {
  with_kernel_type(gate.scalar_type(), [&]<typename T>() {
    const auto* pg = data_of<T>(gate);
    const auto* pu = data_of<T>(up);
    auto* pp = data_of<T>(product);
    for_pieces(gate.numel(),
               [&](std::int64_t at, std::int64_t count) { row_kernels<T>().swiglu(pg + at, pu + at, count, pp + at); });
  });
}

void swiglu_backward(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& product) {
  with_kernel_type(gate.scalar_type(), [&]<typename T>() {
    auto* pg = data_of<T>(gate);
    auto* pu = data_of<T>(up);
    auto* pp = data_of<T>(product);
    for_pieces(gate.numel(), [&](std::int64_t at, std::int64_t count) {
      row_kernels<T>().swiglu_backward(pg + at, pu + at, pp + at, count);
    });
  });
}

void relu(const at::Tensor& x, const at::Tensor& out) {
  with_kernel_type(x.scalar_type(), [&]<typename T>() {
    const auto* px = data_of<T>(x);
    auto* po = data_of<T>(out);
    for_pieces(x.numel(), [&](std::int64_t at, std::int64_t count) { row_kernels<T>().relu(px + at, count, po + at); });
  });
}

void relu_backward(const at::Tensor& x, const at::Tensor& out) {
  with_kernel_type(x.scalar_type(), [&]<typename T>() {
    auto* px = data_of<T>(x);
    auto* po = data_of<T>(out);
    for_pieces(x.numel(),
               [&](std::int64_t at, std::int64_t count) { row_kernels<T>().relu_backward(px + at, po + at, count); });
  });
}

void look_up(const at::Tensor& table, const at::Tensor& ids, const at::Tensor& rows) {
  const std::int64_t width = table.size(1);
  const auto* from = data_of<float>(table);
  const auto* id = ids.const_data_ptr<std::int64_t>();
  auto* to = data_of<float>(rows);
  for_rows(ids.numel(), width, [&](std::int64_t row) {
    std::memcpy(to + row * width, from + id[row] * width, static_cast<std::size_t>(width) * sizeof(float));
  });
}

void add(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum) {
  const auto* px = data_of<float>(x);
  auto* ps = data_of<float>(sum);
  with_kernel_type(delta.scalar_type(), [&]<typename T>() {
    const auto* pd = data_of<T>(delta);
    for_pieces(x.numel(),
               [&](std::int64_t at, std::int64_t count) { row_kernels<T>().sum(px + at, pd + at, count, ps + at); });
  });
}

void convert(const at::Tensor& from, const at::Tensor& to) {
  SCALEBITS_ASSERT(from.numel() == to.numel());
  const bool to_float = to.scalar_type() == at::kFloat;
  with_kernel_type(to_float ? from.scalar_type() : to.scalar_type(), [&]<typename T>() {
    for_pieces(from.numel(), [&](std::int64_t at, std::int64_t count) {
      if (to_float) {
        row_kernels<T>().to_f32(data_of<T>(from) + at, count, data_of<float>(to) + at);
      } else {
        row_kernels<T>().from_f32(data_of<float>(from) + at, count, data_of<T>(to) + at);
      }
    });
  });
}

}  // namespace scalebits
