#include "graph/attention.h"

#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <optional>

namespace scalebits {
namespace {

/// [windows, length, kv_heads, d] → [windows, heads, length, d], each key head repeated for its group of query heads.
at::Tensor repeated(const at::Tensor& kv, std::int64_t heads) {
  const std::int64_t group = heads / kv.size(2);
  return kv.unsqueeze(3)
      .expand({kv.size(0), kv.size(1), kv.size(2), group, kv.size(3)})
      .reshape({kv.size(0), kv.size(1), heads, kv.size(3)})
      .transpose(1, 2);
}

/// The gradient of a repeated head is the sum over its group.
at::Tensor folded(const at::Tensor& dkv, std::int64_t kv_heads) {
  const std::int64_t group = dkv.size(1) / kv_heads;
  return dkv.transpose(1, 2).reshape({dkv.size(0), dkv.size(2), kv_heads, group, dkv.size(3)}).sum(3);
}

std::optional<at::Tensor> window_mask(const Attention& tensors) {
  const std::int64_t length = tensors.q.size(1);
  if (tensors.sliding_window == 0 || length <= tensors.sliding_window) return std::nullopt;
  const at::Tensor position = at::arange(length);
  const at::Tensor distance = position.unsqueeze(1).sub(position.unsqueeze(0));
  return at::zeros({length, length}, tensors.q.options())
      .masked_fill(distance.lt(0).logical_or(distance.ge(tensors.sliding_window)), -std::numeric_limits<float>::infinity());
}

}  // namespace

void attend(const Attention& tensors) {
  const std::int64_t heads = tensors.q.size(2);
  const auto mask = window_mask(tensors);
  const auto [out, log_sums] = at::_scaled_dot_product_flash_attention_for_cpu(
      tensors.q.transpose(1, 2), repeated(tensors.k, heads), repeated(tensors.v, heads), 0.0, !mask, mask);
  tensors.out.copy_(out.transpose(1, 2));
  tensors.log_sums.copy_(log_sums);
}

void attend_backward(const Attention& tensors, const AttentionGradient& gradient) {
  const std::int64_t heads = tensors.q.size(2), kv_heads = tensors.k.size(2);
  const auto mask = window_mask(tensors);
  const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      gradient.dout.transpose(1, 2), tensors.q.transpose(1, 2), repeated(tensors.k, heads), repeated(tensors.v, heads),
      tensors.out.transpose(1, 2), tensors.log_sums, 0.0, !mask, mask);
  gradient.dq.copy_(dq.transpose(1, 2));
  gradient.dk.copy_(folded(dk, kv_heads));
  gradient.dv.copy_(folded(dv, kv_heads));
}

}  // namespace scalebits
