// Buffers that are made once and used in every pass: fresh memory for large tensors would cost a page fault per 4 KiB,
// which at bf16 speed is as dear as the products themselves. A name has one user at a time. On another device than the
// CPU the memory is torch's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace scalebits {

class Workspace {
 public:
  explicit Workspace(at::Device device = at::kCPU) : device_(device) {}
  /// An uninitialised contiguous tensor on the buffer `name`, which grows when it is too small. It shares memory with
  /// every other tensor taken under that name.
  at::Tensor take(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype);
  std::uint64_t bytes() const;
  void clear() { buffers_.clear(); }

 private:
  at::Device device_;
  std::map<std::string, at::Tensor> buffers_;
};

}  // namespace scalebits
