// The devices that passes run on, by the names that `--device` knows them by.
#pragma once

#include <c10/core/Device.h>

#include <string_view>

namespace scalebits {

enum class ComputeDevice {
  cpu,         // host memory and kernels of our own
  cuda,        // tensors on a card, which torch works on
  cpu_tensors  // the card's path on this processor, for tests: slower than cpu
};

/// "cpu", "cuda", "cpu-tensors". Throws Error(usage) listing them.
ComputeDevice compute_device_from_name(std::string_view name);

/// Loads what the device needs, before anything else of torch's is used. Throws Error(unsupported_hardware) saying what
/// is missing: a libtorch with CUDA, one of CUDA's own libraries, a card.
void open_compute_device(ComputeDevice device);

/// The device that process number `rank` of a job takes: of cards the one of its LOCAL_RANK, or of its rank, modulo the
/// number of cards.
at::Device numbered_device(ComputeDevice device, int rank);

}  // namespace scalebits
