#include "graph/compute_device.h"

#include "core/error.h"
#include "graph/cuda_device.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<ComputeDevice, std::string_view> kNames[] = {
    {ComputeDevice::cpu, "cpu"}, {ComputeDevice::cuda, "cuda"}, {ComputeDevice::cpu_tensors, "cpu-tensors"}};

}  // namespace

ComputeDevice compute_device_from_name(std::string_view name) {
  std::string known_names;
  for (const auto& [device, known] : kNames) {
    if (known == name) return device;
    known_names += (known_names.empty() ? "" : ", ") + std::string(known);
  }
  fail(ErrorKind::usage, "unknown device '{}'; known are {}", name, known_names);
}

void open_compute_device(ComputeDevice device) {
  if (device == ComputeDevice::cuda) load_cuda();
}

at::Device numbered_device(ComputeDevice device, int rank) {
  if (device != ComputeDevice::cuda) return at::kCPU;
  const char* const local = std::getenv("LOCAL_RANK");
  const int number = local != nullptr ? std::max(0, std::atoi(local)) : rank;
  return {at::kCUDA, static_cast<at::DeviceIndex>(number % load_cuda())};
}

}  // namespace scalebits
