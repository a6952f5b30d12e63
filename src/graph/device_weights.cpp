#include "graph/device_weights.h"

#include "core/error.h"

#include <ATen/ATen.h>

namespace scalebits {
namespace {

at::ScalarType type_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return at::kFloat;
    case DType::f16: return at::kHalf;
    case DType::bf16: return at::kBFloat16;
  }
  throw InternalError("unknown type of stored weights");
}

/// The bytes of `tensor` on `device`; on the CPU the mapped ones themselves, which nobody writes to.
at::Tensor sent(const HostTensor& tensor, at::Device device) {
  void* data = const_cast<std::byte*>(tensor.bytes.data());
  const at::Tensor bytes = at::from_blob(
      data, {static_cast<std::int64_t>(tensor.bytes.size())}, [owner = tensor.owner](void*) {}, at::kByte);
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % sizeof(float) == 0;
  const at::Tensor there = device.is_cpu() && !aligned ? bytes.clone() : bytes.to(device);
  return there.view(type_of(tensor.dtype)).view(tensor.shape);
}

}  // namespace

DeviceWeights::DeviceWeights(const Checkpoint& checkpoint, at::Device device, at::ScalarType operand, bool keep)
    : checkpoint_(checkpoint), device_(device), operand_(operand), keep_(keep) {}

at::Tensor DeviceWeights::stored(const std::string& name) {
  if (const auto kept = kept_.find(name); kept != kept_.end()) return kept->second;
  const at::Tensor tensor = sent(checkpoint_.tensor(name), device_);
  // The look-up takes its rows from host memory, so of the vocabulary's tables the head's alone is used again.
  if (keep_ && (name != kEmbeddingName || checkpoint_.spec.tied_head)) kept_.emplace(name, tensor);
  return tensor;
}

void DeviceWeights::send_rows(const std::string& name, const at::Tensor& rows, at::Tensor out) const {
  const HostTensor& matrix = checkpoint_.tensor(name);
  const at::Tensor gathered = at::empty({rows.numel(), matrix.shape[1]}, at::kFloat);
  copy_rows(matrix, rows, gathered);
  out.copy_(gathered);
}

at::Tensor DeviceWeights::linear(std::int64_t layer, LinearKind kind) { return as_operand(linear_name(layer, kind)); }
at::Tensor DeviceWeights::embedding() { return as_operand(std::string(kEmbeddingName)); }

void DeviceWeights::embed(const at::Tensor& ids, const at::Tensor& rows) {
  send_rows(std::string(kEmbeddingName), ids, rows);
}

at::Tensor DeviceWeights::head() {
  return as_operand(std::string(checkpoint_.spec.tied_head ? kEmbeddingName : kHeadName));
}

at::Tensor DeviceWeights::vector(const std::string& name) {
  at::Tensor& vector = vectors_[name];
  if (!vector.defined()) vector = to_f32_tensor(checkpoint_.tensor(name)).to(device_);
  return vector;
}

}  // namespace scalebits
