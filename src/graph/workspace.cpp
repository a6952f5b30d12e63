#include "graph/workspace.h"

#include "core/error.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/ScalarType.h>

#include <cstdlib>
#include <new>
#include <sys/mman.h>

namespace scalebits {
namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;

/// Uninitialised bytes; in host memory large ones on huge pages, which also spares the processor's address cache.
at::Tensor allocate(std::int64_t bytes, at::Device device) {
  if (!device.is_cpu()) return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  const std::size_t alignment = bytes >= static_cast<std::int64_t>(kHugePage) ? kHugePage : 64;
  const std::size_t rounded = (static_cast<std::size_t>(bytes) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (!memory) throw std::bad_alloc();
  if (alignment == kHugePage) ::madvise(memory, rounded, MADV_HUGEPAGE);
  return at::from_blob(memory, {bytes}, [](void* data) { std::free(data); }, at::kByte);
}

}  // namespace

at::Tensor Workspace::take(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
  std::int64_t elements = 1;
  for (const std::int64_t extent : shape) elements *= extent;
  const std::int64_t bytes = std::max<std::int64_t>(64, elements * static_cast<std::int64_t>(c10::elementSize(dtype)));
  at::Tensor& buffer = buffers_[name];
  if (!buffer.defined() || buffer.numel() < bytes) {
    buffer = at::Tensor();  // free the old one before the new one is made
    buffer = allocate(bytes, device_);
  }
  return buffer.narrow(0, 0, elements * static_cast<std::int64_t>(c10::elementSize(dtype))).view(dtype).view(shape);
}

std::uint64_t Workspace::bytes() const {
  std::uint64_t total = 0;
  for (const auto& [name, buffer] : buffers_) total += static_cast<std::uint64_t>(buffer.numel());
  return total;
}

}  // namespace scalebits
