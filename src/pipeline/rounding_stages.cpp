#include "pipeline/rounding_stages.h"

#include "format/packed_matrix.h"

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

void RoundingStages::collect(PackedBlobs& blobs, const RoundedMatrices& matrices, const BitPlan& plan,
                             const ModelSpec& spec) const {
  if (!pipeline_) return;
  for (std::size_t m = 0; m < blobs.size(); ++m) {
    const int owner = stage_of_matrix(spec, count(), m);
    if (owner == 0 || !matrices[m]) continue;
    if (pipeline_->index() != owner && !pipeline_->is_first()) continue;
    const bool packed_here = pipeline_->index() == owner && blobs[m].empty();
    blobs[m].resize(packed_bytes(matrices[m]->format(), plan.widths[m]));
    if (packed_here) matrices[m]->pack(plan.widths[m], blobs[m]);
    const at::Tensor bytes = at::from_blob(blobs[m].data(), {static_cast<std::int64_t>(blobs[m].size())}, at::kByte);
    pipeline_->is_first() ? pipeline_->receive(bytes, owner) : pipeline_->send(bytes, 0);
  }
}

}  // namespace scalebits
