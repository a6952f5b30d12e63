// Memory of a device, and the caches in it.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

namespace scalebits::cuda {

/// Memory of the device, freed with its last owner.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(std::shared_ptr<void> data, std::uint64_t bytes) : data_(std::move(data)), bytes_(bytes) {}
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<void> data_;
  std::uint64_t bytes_ = 0;
};

/// Keys and values of one sequence in the device's layers.
struct SequenceCache {
  DeviceMemory memory;
  int capacity = 0;
  bool eight_bits = false;
};

}  // namespace scalebits::cuda
