#include "pipeline/search_device.h"

#include "core/error.h"
#include "core/units.h"
#include "graph/cuda_device.h"
#include "graph/device_weights.h"
#include "graph/generate.h"
#include "graph/tensor_arithmetic.h"
#include "pipeline/width_rules.h"
#include "sensitivity/device_memory.h"
#include "sensitivity/device_search_model.h"

#include <algorithm>

namespace scalebits {
namespace {

constexpr std::uint64_t kSparedPart = 32;  // of what is free: the allocator's gaps

at::Device device_of(const SearchDevice& device, const JobProcesses& processes) {
  return numbered_device(device.kind, processes.all().rank());
}

/// Whose passes; they do not run at the same time.
enum class Passes { search, rounding };

DeviceMemoryNeed need_of(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe, Passes passes,
                         const PipelineStage* pipeline) {
  DeviceMemoryNeed need{.stored = DType::bf16,
                        .compute = recipe.compute,
                        .keep_weights = !device.offload,
                        .vocabulary = rounds_vocabulary(recipe),
                        .reference = recipe.loss == LossTarget::Kind::kl || passes == Passes::rounding,
                        .layers = own_layers(checkpoint.spec, pipeline),
                        .decoders = passes == Passes::rounding ? 2 : 1};
  for (const auto& [name, tensor] : checkpoint.tensors)
    if (tensor.shape.size() == 2 && tensor.dtype == DType::f32) need.stored = DType::f32;
  return need;
}

/// Of each decoder.
std::uint64_t activation_bytes(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                               Passes passes, JobProcesses& processes) {
  const std::uint64_t free = free_device_bytes(device_of(device, processes)), usable = free - free / kSparedPart;
  const std::uint64_t memory = device.memory_bytes > 0 ? std::min(device.memory_bytes, usable) : usable;
  return activation_bytes_within(
      memory, checkpoint.spec, need_of(device, checkpoint, recipe, passes, processes.pipeline()), recipe.window_length);
}

}  // namespace

SearchEngine make_search_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                                const RoundedMatrices& matrices, JobProcesses& processes) {
  if (device.kind == SearchDevice::Kind::cpu)
    return {std::make_unique<SearchModel>(checkpoint, matrices),
            {.compute = recipe.compute, .pipeline = processes.pipeline()}};
  const ComputePlace place = tensor_place(device_of(device, processes));
  return {std::make_unique<DeviceSearchModel>(checkpoint, matrices, place.device, operand_type(recipe.compute),
                                              !device.offload),
          {recipe.compute, activation_bytes(device, checkpoint, recipe, Passes::search, processes), place,
           processes.pipeline()}};
}

RoundingEngine make_rounding_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                                    JobProcesses& processes) {
  if (device.kind == SearchDevice::Kind::cpu)
    return {std::make_unique<CheckpointWeights>(checkpoint),
            {.compute = recipe.compute, .pipeline = processes.pipeline()}};
  const ComputePlace place = tensor_place(device_of(device, processes));
  return {std::make_unique<DeviceWeights>(checkpoint, place.device, operand_type(recipe.compute), !device.offload),
          {recipe.compute, activation_bytes(device, checkpoint, recipe, Passes::rounding, processes), place,
           processes.pipeline()}};
}

TextEngine make_text_engine(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                            JobProcesses& processes) {
  if (device.kind == SearchDevice::Kind::cpu) return {std::make_unique<CheckpointWeights>(checkpoint), {}, 0};
  const ComputePlace place = tensor_place(device_of(device, processes));
  SearchDevice for_text = device;
  for_text.offload = device.offload || processes.stages() > 1;
  const std::uint64_t left = activation_bytes(for_text, checkpoint, recipe, Passes::search, processes),
                      window = own_text_bytes(checkpoint.spec, recipe.compute, recipe.window_length);
  if (window > left)
    fail(ErrorKind::unsupported_hardware,
         "writing one window of calibration text takes {} of the device's memory, and {} are left for it; give "
         "--calibration",
         format_bytes(window), format_bytes(left));
  return {std::make_unique<DeviceWeights>(checkpoint, place.device, operand_type(recipe.compute), !for_text.offload),
          place, static_cast<std::int64_t>(left / window)};
}

std::string account_of(const SearchDevice& device, const Checkpoint& checkpoint, const Recipe& recipe,
                       JobProcesses& processes) {
  if (device.kind == SearchDevice::Kind::cpu) return {};
  if (recipe.rounding != FinalRoundingMethod::nearest && processes.replica() == 0)
    activation_bytes(device, checkpoint, recipe, Passes::rounding, processes);
  const std::uint64_t activations = activation_bytes(device, checkpoint, recipe, Passes::search, processes);
  return fmt::format(
      "{} for activations, beside {}", format_bytes(activations),
      device_memory(checkpoint.spec, need_of(device, checkpoint, recipe, Passes::search, processes.pipeline())).text());
}

}  // namespace scalebits
