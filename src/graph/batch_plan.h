// How a decoder cuts a batch so that its activations fit: arithmetic alone, so that a card's memory can be counted
// beforehand.
#pragma once

#include "graph/layer.h"
#include "model/model_spec.h"

#include <cstdint>

namespace scalebits {

struct BatchShape {
  std::int64_t windows = 0, length = 0;
  bool backward = false;
  std::int64_t begun = 1;  // batches of this shape whose forward passes are made before the first backward pass
};

struct ActivationBudget {
  std::uint64_t bytes = 0;  // at the place where the decoder computes
  /// Host memory is other memory: what spans the batch may lie there, at most so many bytes. 0: it is the same.
  std::uint64_t host_bytes = 0;
};

struct BatchPlan {
  bool keep_all = false;             // every layer's activations are kept; else only layer inputs, and layers run again
  bool staged = false;               // what spans the batch lies in host memory; a micro-batch's rows are brought over
  std::int64_t windows_at_once = 1;  // of a micro-batch, at most
  std::uint64_t bytes = 0;           // at the place, with micro-batches of so many windows
};

/// Throws Error(usage) when not even the layer inputs fit, Error(unsupported_hardware) when another device cannot hold
/// one window. On the host itself one window always runs.
BatchPlan plan_batch(const ModelSpec& spec, at::ScalarType operand, const BatchShape& batch,
                     const ActivationBudget& budget);

/// What one window of `length` tokens takes in a staged batch, the least that any batch takes.
std::uint64_t staged_window_bytes(const ModelSpec& spec, at::ScalarType operand, std::int64_t length);

}  // namespace scalebits
