// Moves the weights of the residual stream's RMSNorms into the linear layers behind them, so that a norm only scales
// and the stream's basis may be changed. The head gets the final norm's weight; a tied head therefore becomes its own
// tensor.
#pragma once

#include "model/checkpoint.h"

namespace scalebits {

/// The same function with spec.tied_head false and norm weights of 1: input column j of q, k, v (gate, up; head) is
/// multiplied by weight j of the norm before it. The norms inside attention (q_norm, k_norm) stay. Changed tensors are
/// f32 with one rounding per weight; the others share the input's bytes. Throws Error(bad_input) for a model with
/// LayerNorm, whose last bias has no linear layer with a bias behind it to move into.
Checkpoint fold_norms(const Checkpoint& checkpoint);

}  // namespace scalebits
