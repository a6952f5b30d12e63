#include "graph/artifact_weights.h"

#include <ATen/ATen.h>

namespace scalebits {

at::Tensor ArtifactWeights::tensor(const std::string& name) const {
  for (const TensorShape& required : required_tensors(artifact_->spec())) {
    if (required.name != name) continue;
    at::Tensor values = at::empty(required.shape, at::kFloat);
    artifact_->dequantize(name, {values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
    return values;
  }
  throw InternalError(fmt::format("no tensor '{}'", name));
}

at::Tensor ArtifactWeights::linear(std::int64_t layer, LinearKind kind) { return tensor(linear_name(layer, kind)); }

at::Tensor ArtifactWeights::embedding() {
  if (!embedding_.defined()) embedding_ = tensor(std::string(kEmbeddingName));
  return embedding_;
}

at::Tensor ArtifactWeights::head() {
  if (artifact_->spec().tied_head) return embedding();
  if (!head_.defined()) head_ = tensor(std::string(kHeadName));
  return head_;
}

at::Tensor ArtifactWeights::vector(const std::string& name) { return tensor(name); }

}  // namespace scalebits
