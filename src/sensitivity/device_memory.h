// What the passes of a search or of a rounding take of a device's memory, counted beforehand: all but the activations,
// for which the rest is left. Each figure is a most, and they are added up though not all are there at once.
#pragma once

#include "core/float_types.h"
#include "graph/decoder.h"
#include "model/model_spec.h"

#include <cstdint>
#include <string>

namespace scalebits {

struct DeviceMemoryNeed {
  DType stored = DType::bf16;  // the checkpoint's weights; the widest type among them
  Compute compute = Compute::f32;
  bool keep_weights = true;  // on the device; false: in host memory
  bool vocabulary = false;   // embedding and head are rounded and scored, too
  bool reference = false;    // the loss is the divergence from the full-precision model
  LayerRange layers = {};    // that a stage has; none: all
  int decoders = 1;          // that share what is left, each with activations of its own
};

/// Bytes.
struct DeviceMemory {
  std::uint64_t weights = 0;    // that stay, as stored
  std::uint64_t layer = 0;      // one layer's: rounded in the operand type, and as they come over when they do not stay
  std::uint64_t gradients = 0;  // of one layer, or of the embedding or head when they are searched
  std::uint64_t head = 0;       // in the operand type, and some hundred tokens' logits with their gradients
  std::uint64_t temporaries = 0;  // of tensor operations
  std::uint64_t libraries = 0;    // CUDA's context and cuBLAS's work space, as a guess
  std::uint64_t total() const { return weights + layer + gradients + head + temporaries + libraries; }
  /// "13.5 GiB of weights, …".
  std::string text() const;
};

DeviceMemory device_memory(const ModelSpec& spec, const DeviceMemoryNeed& need);

/// What `memory_bytes` of a device leave for the activations of each decoder. Throws Error(unsupported_hardware) with
/// the sum when it is less than one window of `length` tokens takes.
std::uint64_t activation_bytes_within(std::uint64_t memory_bytes, const ModelSpec& spec, const DeviceMemoryNeed& need,
                                      std::int64_t length);

}  // namespace scalebits
