#include "pipeline/stored_size.h"

#include "pack/pack_model.h"
#include "pipeline/width_rules.h"

#include <cmath>

namespace scalebits {

void reserve_sensitivity(ArtifactDescription& description, const Recipe& recipe) {
  const bool scored = recipe.allocator != Allocator::uniform && recipe.allocator != Allocator::baq_layer;
  if (scored) description.sensitivity.assign(description.matrices.size(), 0.0f);
}

ArtifactSizes StoredSize::sizes(const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan) {
  std::vector<ChannelOrderPtr> orders;
  for (const MatrixPartition& matrix : partition.matrices)
    orders.insert(orders.end(), {matrix.row_order, matrix.col_order});
  if (orders != described_) {
    description_ = describe_artifact(checkpoint_, partition, matrices, to_json(recipe_));
    reserve_sensitivity(description_, recipe_);
    described_ = std::move(orders);
  }
  set_widths(description_, matrices, plan);
  return artifact_sizes(description_);
}

std::uint64_t StoredSize::operator()(const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan) {
  const ArtifactSizes all = sizes(partition, matrices, plan);
  return recipe_.bpw ? all.linear_bytes : all.file();
}

std::uint64_t budget_bytes(const ModelSpec& spec, const Recipe& recipe) {
  if (!recipe.bpw) return *recipe.budget_bytes;
  double weights = 0;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec))
      if (kept_bits(recipe, linear_name(layer, kind)) != 16) {
        const auto [rows, cols] = linear_shape(spec, kind);
        weights += static_cast<double>(rows) * static_cast<double>(cols);
      }
  if (weights == 0)
    fail(ErrorKind::usage, "a rate ('bpw') is that of the quantised linear layers, and 'keep' leaves none of them");
  return static_cast<std::uint64_t>(std::floor(*recipe.bpw * weights / 8));
}

}  // namespace scalebits
