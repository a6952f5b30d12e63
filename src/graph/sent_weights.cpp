#include "graph/sent_weights.h"

#include <ATen/ATen.h>

namespace scalebits {

SentWeights::SentWeights(WeightSource& host, const DecoderOptions& decoder)
    : host_(host), device_(decoder.place.device),
      operand_(decoder.place.separate_memory ? operand_type(decoder.compute) : at::kFloat) {}

void SentWeights::embed(const at::Tensor& ids, const at::Tensor& rows) {
  if (rows.is_cpu()) return host_.embed(ids, rows);
  const at::Tensor here = at::empty(rows.sizes(), rows.scalar_type());
  host_.embed(ids, here);
  rows.copy_(here);
}

at::Tensor SentWeights::vector(const std::string& name) {
  at::Tensor& vector = vectors_[name];
  if (!vector.defined()) vector = host_.vector(name).to(device_);
  return vector;
}

}  // namespace scalebits
