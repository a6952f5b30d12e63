#include "pipeline/width_rules.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <optional>
#include <span>

namespace scalebits {

bool is_vocabulary(const std::string& tensor_name) { return tensor_name == kEmbeddingName || tensor_name == kHeadName; }

WidthRange width_range(const Recipe& recipe, const std::string& tensor_name) {
  WidthRange range{true, recipe.min_width, recipe.max_width};
  if (is_vocabulary(tensor_name)) {
    range.min = std::max(range.min, recipe.min_embedding_width);
    if (recipe.embedding == EmbeddingMode::eight_bits) range.min = range.max = 8;
    if (recipe.embedding == EmbeddingMode::sixteen_bits) range.rounded = false;
  }
  if (const std::optional<int> kept = kept_bits(recipe, tensor_name)) {
    range.rounded = *kept != 16;
    range.min = range.max = *kept;
  }
  return range;
}

RoundedMatrices round_matrices(const Checkpoint& checkpoint, const Partition& partition,
                               const std::vector<std::vector<float>>& importance, const Recipe& recipe,
                               const std::function<void(const std::string& name)>& on_matrix, ProcessGroup* group) {
  const bool clip_search = recipe.clip != ClipWeighting::none;
  const std::size_t size = group != nullptr && clip_search ? static_cast<std::size_t>(group->size()) : 1;
  const auto is_mine = [&](std::size_t i) { return size == 1 || i % size == static_cast<std::size_t>(group->rank()); };
  RoundedMatrices matrices;
  for (std::size_t i = 0; i < partition.matrices.size(); ++i) {
    const MatrixPartition& part = partition.matrices[i];
    if (!width_range(recipe, part.name).rounded) {
      matrices.push_back(nullptr);
      continue;
    }
    if (on_matrix) on_matrix(part.name);
    const std::span<const float> weights = importance.empty() ? std::span<const float>() : importance[i];
    GroupOptions groups = recipe.groups;
    groups.clip_search = clip_search && is_mine(i);
    matrices.push_back(
        std::make_unique<RoundedMatrix>(checkpoint.tensor(part.name), part, recipe.blocks, groups, weights));
  }
  for (std::size_t i = 0; i < matrices.size() && size > 1; ++i)
    if (matrices[i])
      for (std::span<GroupCode> codes : matrices[i]->codes())
        group->broadcast(at::from_blob(codes.data(), {static_cast<std::int64_t>(codes.size_bytes())}, at::kByte),
                         static_cast<int>(i % size));
  return matrices;
}

BitPlan uniform_plan(const RoundedMatrices& matrices, const Recipe& recipe, int bits) {
  BitPlan plan;
  for (const auto& matrix : matrices) {
    if (!matrix) {
      plan.widths.emplace_back();
      continue;
    }
    const WidthRange range = width_range(recipe, matrix->name());
    plan.widths.emplace_back(static_cast<std::size_t>(matrix->format().block_count()),
                             static_cast<std::uint8_t>(std::clamp(bits, range.min, range.max)));
  }
  return plan;
}

}  // namespace scalebits
