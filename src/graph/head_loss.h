// From final hidden states to the loss, some hundred tokens of logits at a time: the logits of a batch never exist
// together. The gradient with respect to the hidden states is made in the same sweep.
#pragma once

#include "graph/arithmetic.h"
#include "graph/loss.h"
#include "graph/workspace.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

struct HeadLossInputs {
  at::Tensor ids;     // [windows, length] int64, in host memory
  at::Tensor hidden;  // [windows * length, hidden] f32, after the final norm
  at::Tensor head;    // [vocab, hidden] f32 or in the operand type
};

struct HeadLossOptions {
  bool squared_head_gradient = false;  // head: the squares of what each token adds (GradientKind::tokens), not the sum
  at::ScalarType operand = at::kFloat;
  std::int64_t chunk_tokens =
      512;  // how many tokens' logits exist at a time; does not change the result but by rounding
  ComputePlace place = {};
  /// Hidden states and their gradient lie in host memory: pieces of them are brought over.
  bool staged = false;
};

/// Where gradients of the mean loss go; what is undefined is not made.
struct HeadGradients {
  at::Tensor
      hidden;       // [windows * length, hidden] in the operand type, overwritten; zero at each window's last position
  at::Tensor head;  // [vocab, hidden] f32, added to
};

LossResult head_loss(const HeadLossInputs& inputs, const LossTarget& target, const HeadLossOptions& options,
                     const HeadGradients& gradients, Workspace& workspace);

}  // namespace scalebits
