// A weight source of host memory for a decoder that computes elsewhere: what it gives is sent, in the type of the
// decoder's operands, each time it is asked for. For weights that only the host can make.
#pragma once

#include "graph/decoder.h"
#include "graph/weight_source.h"

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

namespace scalebits {

class SentWeights : public WeightSource {
 public:
  /// Keeps a reference to `host`. For a decoder with these options; one that computes in host memory is given what
  /// `host` gives.
  SentWeights(WeightSource& host, const DecoderOptions& decoder);
  at::Tensor linear(std::int64_t layer, LinearKind kind) override { return sent(host_.linear(layer, kind)); }
  at::Tensor embedding() override { return sent(host_.embedding()); }
  void embed(const at::Tensor& ids, const at::Tensor& rows) override;
  at::Tensor head() override { return sent(host_.head()); }
  at::Tensor vector(const std::string& name) override;

 private:
  at::Tensor sent(const at::Tensor& weight) const { return weight.to(operand_).to(device_); }
  WeightSource& host_;
  at::Device device_;
  at::ScalarType operand_;
  std::map<std::string, at::Tensor> vectors_;  // never change
};

}  // namespace scalebits
