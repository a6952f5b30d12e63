// Where the rest of the program meets the card: its own weights and its own errors.
#pragma once

#include "kernels/cuda/engine.h"
#include "kernels/weights.h"

namespace scalebits {

cuda::StoredShape stored_shape(const MatrixFormat& format);
/// A view of what `weights` views.
cuda::StoredMatrix stored_matrix(const PackedWeights& weights);

/// At least one. Throws Error(unsupported_hardware) saying why there is none: no toolkit when this was built, no
/// driver, no card, or one that is too old.
std::vector<cuda::Card> require_cards();

}  // namespace scalebits
