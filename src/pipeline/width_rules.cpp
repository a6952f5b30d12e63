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
    range.max = std::max(range.max, range.min);
    if (recipe.embedding == EmbeddingMode::eight_bits) range.min = range.max = 8;
    if (recipe.embedding == EmbeddingMode::sixteen_bits) range.rounded = false;
  }
  if (const std::optional<int> kept = kept_bits(recipe, tensor_name)) {
    range.rounded = *kept != 16;
    range.min = range.max = *kept;
  }
  return range;
}

bool rounds_vocabulary(const Recipe& recipe) {
  return width_range(recipe, std::string(kEmbeddingName)).rounded ||
         width_range(recipe, std::string(kHeadName)).rounded;
}

RoundedMatrices round_matrices(const Checkpoint& checkpoint, const Partition& partition,
                               const std::vector<std::vector<float>>& importance, const Recipe& recipe,
                               const std::function<void(const std::string& name)>& on_matrix, JobProcesses* processes) {
  const bool clip_search = recipe.clip != ClipWeighting::none;
  const int replicas = processes != nullptr && clip_search ? processes->replicas().size() : 1;
  RoundedMatrices matrices;
  std::vector<RoundedMatrix*> searched;  // by number: replica number % replicas searches it
  for (std::size_t i = 0; i < partition.matrices.size(); ++i) {
    const MatrixPartition& part = partition.matrices[i];
    if (!width_range(recipe, part.name).rounded) {
      matrices.push_back(nullptr);
      continue;
    }
    const bool runs = processes == nullptr || runs_matrix(checkpoint.spec, processes->pipeline(), i);
    if (on_matrix && runs) on_matrix(part.name);
    const std::span<const float> weights = importance.empty() ? std::span<const float>() : importance[i];
    GroupOptions groups = recipe.groups;
    if (!runs) groups.code_widths = 0;
    groups.clip_search =
        clip_search && (replicas == 1 || static_cast<int>(searched.size()) % replicas == processes->replica());
    matrices.push_back(
        std::make_unique<RoundedMatrix>(checkpoint.tensor(part.name), part, recipe.blocks, groups, weights));
    if (runs) searched.push_back(matrices.back().get());
  }
  for (std::size_t i = 0; i < searched.size() && replicas > 1; ++i)
    for (std::span<GroupCode> codes : searched[i]->codes()) {
      if (codes.empty()) continue;
      processes->replicas().broadcast(
          at::from_blob(codes.data(), {static_cast<std::int64_t>(codes.size_bytes())}, at::kByte),
          static_cast<int>(i) % replicas);
    }
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
