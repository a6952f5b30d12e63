#include "model/checkpoint.h"

#include <cstring>

namespace scalebits {

std::int64_t HostTensor::elements() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

void HostTensor::copy_f32(std::int64_t first, std::span<float> out) const {
  SCALEBITS_ASSERT(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= elements());
  const std::byte* source = bytes.data() + static_cast<std::size_t>(first) * size_bytes(dtype);
  if (dtype == DType::f32) {
    std::memcpy(out.data(), source, out.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, source + 2 * i, 2);
    out[i] = dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
  }
}

std::vector<float> HostTensor::to_f32() const {
  std::vector<float> values(static_cast<std::size_t>(elements()));
  copy_f32(0, values);
  return values;
}

HostTensor HostTensor::from_f32(std::vector<std::int64_t> shape, std::vector<float> values) {
  auto owned = std::make_shared<const std::vector<float>>(std::move(values));
  HostTensor tensor{DType::f32, std::move(shape), std::as_bytes(std::span(*owned)), owned};
  SCALEBITS_ASSERT(tensor.elements() == static_cast<std::int64_t>(owned->size()));
  return tensor;
}

const HostTensor& Checkpoint::tensor(std::string_view name) const {
  const auto found = tensors.find(std::string(name));
  if (found == tensors.end()) throw InternalError(fmt::format("{}: no tensor '{}'", source, name));
  return found->second;
}

}  // namespace scalebits
