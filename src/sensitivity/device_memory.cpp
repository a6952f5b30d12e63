#include "sensitivity/device_memory.h"

#include "core/error.h"
#include "core/units.h"
#include "graph/batch_plan.h"
#include "graph/head_loss.h"
#include "graph/tensor_arithmetic.h"
#include "sensitivity/device_matrix.h"

#include <fmt/format.h>

#include <algorithm>

namespace scalebits {
namespace {

constexpr std::uint64_t kLibraryBytes = std::uint64_t{768} << 20;
constexpr std::uint64_t kF32 = 4, kBf16 = 2;

}  // namespace

std::string DeviceMemory::text() const {
  return fmt::format(
      "{} of weights that stay, {} of a layer's, {} of gradients, {} of head and logits, {} of "
      "temporaries and {} of CUDA's libraries",
      format_bytes(weights), format_bytes(layer), format_bytes(gradients), format_bytes(head),
      format_bytes(temporaries), format_bytes(libraries));
}

DeviceMemory device_memory(const ModelSpec& spec, const DeviceMemoryNeed& need) {
  const auto layer_weights = static_cast<std::uint64_t>(layer_weight_count(spec));
  const auto vocabulary = static_cast<std::uint64_t>(spec.vocab * spec.hidden),
             layers = static_cast<std::uint64_t>(need.layers.count() > 0 ? need.layers.count() : spec.layers);
  const std::uint64_t stored = size_bytes(need.stored), operand = need.compute == Compute::f32 ? kF32 : kBf16;
  DeviceMemory memory;
  if (need.keep_weights) memory.weights = stored * (layer_weights * layers + vocabulary);
  // One decoder's, or where the exact ones are converted, too, each decoder's.
  const std::uint64_t made = stored != operand ? static_cast<std::uint64_t>(need.decoders) : 1;
  memory.layer = made * operand * layer_weights + (need.keep_weights ? 0 : stored * layer_weights);
  memory.gradients = kF32 * layer_weights;
  const std::uint64_t logits = static_cast<std::uint64_t>(HeadLossOptions{}.chunk_tokens * spec.vocab);
  const bool own_head = !need.keep_weights || need.vocabulary || stored != operand;
  memory.head = logits * (kF32 + operand) + (own_head ? operand * vocabulary : 0);
  // The full-precision head is kept for the held-out windows, and asked for again with each gradient's.
  if (need.reference) memory.head += logits * kF32 + 2 * operand * vocabulary;
  // The table's gradient, beside the table as it comes over to be rounded or scored.
  if (need.vocabulary) memory.gradients = std::max(memory.gradients, (kF32 + stored) * vocabulary);
  memory.temporaries = std::max(kTensorTemporaryBytes, kDeviceMatrixBytes);
  memory.libraries = kLibraryBytes;
  return memory;
}

std::uint64_t activation_bytes_within(std::uint64_t memory_bytes, const ModelSpec& spec, const DeviceMemoryNeed& need,
                                      std::int64_t length) {
  const DeviceMemory memory = device_memory(spec, need);
  const auto decoders = static_cast<std::uint64_t>(need.decoders);
  const std::uint64_t window = decoders * staged_window_bytes(spec, operand_type(need.compute), length);
  if (memory.total() + window > memory_bytes) {
    DeviceMemoryNeed offloaded = need;
    offloaded.keep_weights = false;
    const bool would_do = need.keep_weights && device_memory(spec, offloaded).total() + window <= memory_bytes;
    fail(ErrorKind::unsupported_hardware,
         "{} needs {} of the device's memory ({}, {} of one window's activations), and {} are to be had{}",
         decoders > 1 ? "the final rounding" : "the search", format_bytes(memory.total() + window), memory.text(),
         format_bytes(window), format_bytes(memory_bytes),
         would_do ? "; --offload keeps the weights in host memory" : "");
  }
  return (memory_bytes - memory.total()) / decoders;
}

}  // namespace scalebits
