#include "graph/weight_source.h"

#include "core/error.h"
#include "graph/elementwise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <memory>
#include <span>

namespace scalebits {

at::Tensor to_f32_tensor(const HostTensor& tensor) {
  if (tensor.dtype == DType::f32) {
    // from_blob takes void*, but nothing here ever writes through a weight.
    void* data = const_cast<std::byte*>(tensor.bytes.data());
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) == 0)
      return at::from_blob(data, tensor.shape, [owner = tensor.owner](void*) {}, at::kFloat);
  }
  at::Tensor converted = at::empty(tensor.shape, at::kFloat);
  const std::span<float> out(converted.data_ptr<float>(), static_cast<std::size_t>(converted.numel()));
  constexpr std::int64_t kPiece = 1 << 16;
  at::parallel_for(0, (converted.numel() + kPiece - 1) / kPiece, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t first = piece * kPiece;
      const std::int64_t count = std::min(kPiece, converted.numel() - first);
      tensor.copy_f32(first, out.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
    }
  });
  return converted;
}

void copy_rows(const HostTensor& matrix, const at::Tensor& rows, const at::Tensor& out) {
  const std::int64_t width = matrix.shape[1];
  const auto* const row = rows.const_data_ptr<std::int64_t>();
  auto* const to = out.data_ptr<float>();
  at::parallel_for(0, rows.numel(), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      matrix.copy_f32(row[i] * width, {to + i * width, static_cast<std::size_t>(width)});
  });
}

void WeightSource::embed(const at::Tensor& ids, const at::Tensor& rows) { look_up(embedding(), ids, rows); }

CheckpointWeights::CheckpointWeights(const Checkpoint& checkpoint)
    : tensors_(checkpoint.tensors), tied_head_(checkpoint.spec.tied_head) {}

const HostTensor& CheckpointWeights::stored(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw InternalError("the checkpoint has no tensor '" + name + "'");
  return found->second;
}

at::Tensor CheckpointWeights::tensor(const std::string& name) const { return to_f32_tensor(stored(name)); }

at::Tensor CheckpointWeights::linear(std::int64_t layer, LinearKind kind) { return tensor(linear_name(layer, kind)); }
at::Tensor CheckpointWeights::embedding() { return tensor(std::string(kEmbeddingName)); }

void CheckpointWeights::embed(const at::Tensor& ids, const at::Tensor& rows) {
  copy_rows(stored(std::string(kEmbeddingName)), ids, rows);
}

at::Tensor CheckpointWeights::head() { return tensor(std::string(tied_head_ ? kEmbeddingName : kHeadName)); }
at::Tensor CheckpointWeights::vector(const std::string& name) { return tensor(name); }

}  // namespace scalebits
