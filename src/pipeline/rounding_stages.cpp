#include "pipeline/rounding_stages.h"

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>

namespace scalebits {

double RoundingStages::from(int stage, double mine) const {
  if (pipeline_) pipeline_->broadcast(at::from_blob(&mine, {1}, at::kDouble), stage);
  return mine;
}

bool RoundingStages::any(bool mine) const {
  bool result = false;
  for (int stage = 0; stage < count(); ++stage) result = from(stage, mine ? 1 : 0) != 0 || result;
  return result;
}

std::string RoundingStages::file_name() const {
  return pipeline_ ? fmt::format("tuning-{}-of-{}.safetensors", pipeline_->index() + 1, count()) : "tuning.safetensors";
}

void RoundingStages::collect(PackedBlobs& blobs, const ModelSpec& spec) const {
  if (!pipeline_) return;
  for (std::size_t m = 0; m < blobs.size(); ++m) {
    const int owner = stage_of_matrix(spec, count(), m);
    const auto size = static_cast<std::int64_t>(from(owner, static_cast<double>(blobs[m].size())));
    if (owner == 0 || size == 0) continue;
    if (pipeline_->is_first()) blobs[m].resize(static_cast<std::size_t>(size));
    const auto bytes = [&] { return at::from_blob(blobs[m].data(), {size}, at::kByte); };
    if (pipeline_->is_first()) pipeline_->receive(bytes(), owner);
    if (pipeline_->index() == owner) pipeline_->send(bytes(), 0);
  }
}

}  // namespace scalebits
