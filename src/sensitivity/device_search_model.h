// The search's model for tensors on another device (search_model.h has the host's): weights lie there as the checkpoint
// stores them, or come over when they are asked for; a layer is rounded when the decoder wants it, straight into the
// operand type.
#pragma once

#include "graph/device_weights.h"
#include "graph/workspace.h"
#include "sensitivity/search_model.h"

#include <string>
#include <vector>

namespace scalebits {

class DeviceSearchModel : public ScoredModel {
 public:
  /// Keeps references to checkpoint and matrices. keep, operand: as of DeviceWeights.
  DeviceSearchModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices, at::Device device,
                    at::ScalarType operand, bool keep);
  void use(const BitPlan& plan) override { plan_ = &plan; }
  void use_full_precision() override { plan_ = nullptr; }
  std::vector<WidthScores> score_blocks(std::size_t matrix, const at::Tensor& gradient, Statistic statistic) override;
  ChannelScores score_channels(std::size_t matrix, const at::Tensor& gradient, Statistic statistic, int bits) override;

  at::Tensor linear(std::int64_t layer, LinearKind kind) override;
  at::Tensor embedding() override;
  void embed(const at::Tensor& ids, const at::Tensor& rows) override;
  at::Tensor head() override;
  at::Tensor vector(const std::string& name) override { return weights_.vector(name); }

 private:
  bool is_rounded(std::size_t index) const {
    return plan_ != nullptr && index < matrices_.size() && matrices_[index] != nullptr;
  }
  at::Tensor dequantized(std::size_t index, const std::string& buffer);

  const ModelSpec& spec_;
  const RoundedMatrices& matrices_;
  std::size_t linears_;
  at::ScalarType operand_;
  DeviceWeights weights_;
  Workspace workspace_;
  const BitPlan* plan_ = nullptr;  // null: full precision
};

}  // namespace scalebits
