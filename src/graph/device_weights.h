// A checkpoint's weights for a decoder whose tensors lie on another device: kept there as they are stored (16 bits
// where the checkpoint has 16), or sent from host memory each time one is asked for.
#pragma once

#include "graph/weight_source.h"

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace scalebits {

class DeviceWeights : public WeightSource {
 public:
  /// Shares the checkpoint's bytes, not the struct. operand: what linears and the head are handed over in. keep:
  /// linears and the head stay on the device once they have been asked for.
  DeviceWeights(const Checkpoint& checkpoint, at::Device device, at::ScalarType operand, bool keep);
  at::Tensor linear(std::int64_t layer, LinearKind kind) override;
  at::Tensor embedding() override;
  /// The rows are sent from host memory: no look-up needs the table on the device.
  void embed(const at::Tensor& ids, const at::Tensor& rows) override;
  at::Tensor head() override;
  at::Tensor vector(const std::string& name) override;

  /// On the device, as stored: f32, f16 or bf16.
  at::Tensor stored(const std::string& name);
  /// Rows `rows` (int64 in host memory) of a matrix → out [rows.numel(), cols] f32, on the device.
  void send_rows(const std::string& name, const at::Tensor& rows, at::Tensor out) const;
  at::Device device() const { return device_; }

 private:
  at::Tensor as_operand(const std::string& name) { return stored(name).to(operand_); }
  Checkpoint checkpoint_;
  at::Device device_;
  at::ScalarType operand_;
  bool keep_;
  std::map<std::string, at::Tensor> kept_, vectors_;
};

}  // namespace scalebits
