// The weights of an artifact for the torch decoder: dequantised from the packed blobs each time they are asked for, so
// that what is measured is what the file holds.
#pragma once

#include "artifact/artifact.h"
#include "graph/weight_source.h"

#include <memory>

namespace scalebits {

class ArtifactWeights : public WeightSource {
 public:
  explicit ArtifactWeights(std::shared_ptr<const Artifact> artifact) : artifact_(std::move(artifact)) {}
  at::Tensor linear(std::int64_t layer, LinearKind kind) override;
  at::Tensor embedding() override;
  at::Tensor head() override;
  at::Tensor vector(const std::string& name) override;

 private:
  at::Tensor tensor(const std::string& name) const;
  std::shared_ptr<const Artifact> artifact_;
  at::Tensor embedding_, head_;  // kept: every window asks for them
};

}  // namespace scalebits
