#include "pipeline/search_device.h"

#include "core/error.h"
#include "core/units.h"
#include "graph/cuda_device.h"
#include "graph/tensor_arithmetic.h"
#include "sensitivity/device_memory.h"
#include "sensitivity/device_search_model.h"

#include <algorithm>
#include <cstdlib>

namespace scalebits {
namespace {

constexpr std::pair<SearchDevice::Kind, std::string_view> kNames[] = {{SearchDevice::Kind::cpu, "cpu"},
                                                                      {SearchDevice::Kind::cuda, "cuda"},
                                                                      {SearchDevice::Kind::cpu_tensors, "cpu-tensors"}};
constexpr std::uint64_t kSparedPart = 32;  // of what is free: the allocator's gaps

at::Device device_of(const SearchDevice& device, const ProcessGroup& group) {
  if (device.kind != SearchDevice::Kind::cuda) return at::kCPU;
  const char* const local = std::getenv("LOCAL_RANK");
  const int number = local != nullptr ? std::max(0, std::atoi(local)) : group.rank();
  return {at::kCUDA, static_cast<at::DeviceIndex>(number % load_cuda())};
}

DeviceMemoryNeed need_of(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe) {
  DeviceMemoryNeed need{.stored = DType::bf16,
                        .compute = recipe.compute,
                        .keep_weights = !device.offload,
                        .vocabulary = recipe.embedding != EmbeddingMode::sixteen_bits,
                        .reference = recipe.loss == LossTarget::Kind::kl};
  for (const auto& [name, tensor] : checkpoint.tensors)
    if (tensor.shape.size() == 2 && tensor.dtype == DType::f32) need.stored = DType::f32;
  return need;
}

std::uint64_t activation_bytes(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                               const ProcessGroup& group) {
  const std::uint64_t free = free_device_bytes(device_of(device, group)), usable = free - free / kSparedPart;
  const std::uint64_t memory = device.memory_bytes > 0 ? std::min(device.memory_bytes, usable) : usable;
  return activation_bytes_within(memory, checkpoint.spec, need_of(device, checkpoint, recipe), recipe.window_length);
}

}  // namespace

SearchDevice::Kind search_device_from_name(std::string_view name) {
  std::string known_names;
  for (const auto& [kind, known] : kNames) {
    if (known == name) return kind;
    known_names += (known_names.empty() ? "" : ", ") + std::string(known);
  }
  fail(ErrorKind::usage, "unknown device '{}'; known are {}", name, known_names);
}

void open_search_device(SearchDevice::Kind kind) {
  if (kind == SearchDevice::Kind::cuda) load_cuda();
}

SearchEngine make_search_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                                const RoundedMatrices& matrices, const ProcessGroup& group) {
  if (device.kind == SearchDevice::Kind::cpu)
    return {std::make_unique<SearchModel>(checkpoint, matrices), {.compute = recipe.compute}};
  const ComputePlace place = tensor_place(device_of(device, group));
  return {
      std::make_unique<DeviceSearchModel>(checkpoint, matrices, place.device,
                                          recipe.compute == Compute::f32 ? at::kFloat : at::kBFloat16, !device.offload),
      {recipe.compute, activation_bytes(device, checkpoint, recipe, group), place}};
}

std::string account_of(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                       const ProcessGroup& group) {
  if (device.kind == SearchDevice::Kind::cpu) return {};
  const std::uint64_t activations = activation_bytes(device, checkpoint, recipe, group);
  return fmt::format("{} for activations, beside {}", format_bytes(activations),
                     device_memory(checkpoint.spec, need_of(device, checkpoint, recipe)).text());
}

}  // namespace scalebits
