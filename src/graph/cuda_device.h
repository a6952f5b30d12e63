// Finding a CUDA card through torch, which this program neither links nor needs otherwise.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace scalebits {

/// Loads libtorch_cuda, before anything else of torch's that asks about cards. Throws Error(unsupported_hardware)
/// saying what is missing: that library, one of CUDA's own, a driver or a card. Returns how many cards there are.
int load_cuda();

/// Bytes that a device has free, once torch has given back what it holds unused; of the CPU, half of the physical
/// memory.
std::uint64_t free_device_bytes(at::Device device);

/// The most that torch's tensors took of a card since the last call, in bytes, with what its allocator held back; waits
/// for the card. 0 on the CPU.
std::uint64_t take_peak_device_bytes(at::Device device);

}  // namespace scalebits
