// The losses of rows of logits and their gradients: what the head's loss does between its products.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace scalebits {

struct LogitRows {
  at::Tensor logits;                   // [n, vocab] f32
  at::Tensor reference;                // [n, vocab] f32: the loss is KL(reference || model); undefined: -log p(next)
  std::span<const std::int64_t> next;  // n ids; below 0 where the row predicts nothing
  float scale = 1;                     // of the gradient
  /// [n, vocab] f32 or bf16, overwritten with d(Σ losses)/d(logits) times scale, zero where nothing is predicted; may
  /// be `logits`, or undefined.
  at::Tensor gradient;
};

/// losses [n], of rows that predict nothing left as they are; same_top [n]: whether logits and reference have the same
/// first maximum, written only where there is a reference.
void token_losses(const LogitRows& rows, std::span<float> losses, std::span<std::uint8_t> same_top);

}  // namespace scalebits
