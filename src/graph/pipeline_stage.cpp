#include "graph/pipeline_stage.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>

namespace scalebits {

LayerRange stage_layers(const ModelSpec& spec, int count, int index) {
  SCALEBITS_ASSERT(count >= 1 && count <= spec.layers && index >= 0 && index < count);
  const auto layer = static_cast<double>(layer_weight_count(spec));
  const double all = layer * static_cast<double>(spec.layers) + static_cast<double>(spec.vocab * spec.hidden);
  const auto border = [&](int stage) {
    if (stage == count) return spec.layers;
    // Every stage has a layer.
    return std::clamp<std::int64_t>(std::llround(all * stage / count / layer), stage, spec.layers - (count - stage));
  };
  return {border(index), border(index + 1)};
}

LayerRange own_layers(const ModelSpec& spec, const PipelineStage* pipeline) {
  return pipeline ? stage_layers(spec, pipeline->count(), pipeline->index()) : LayerRange{0, spec.layers};
}

int stage_of_matrix(const ModelSpec& spec, int count, std::size_t matrix) {
  if (matrix >= linear_count(spec)) return spec.tied_head || matrix > linear_count(spec) ? count - 1 : 0;
  const auto layer = static_cast<std::int64_t>(matrix / linear_kinds(spec).size());
  int stage = 0;
  while (layer >= stage_layers(spec, count, stage).last) ++stage;
  return stage;
}

bool owns_matrix(const ModelSpec& spec, const PipelineStage* pipeline, std::size_t matrix) {
  return !pipeline || stage_of_matrix(spec, pipeline->count(), matrix) == pipeline->index();
}

bool runs_matrix(const ModelSpec& spec, const PipelineStage* pipeline, std::size_t matrix) {
  return owns_matrix(spec, pipeline, matrix) || (matrix == linear_count(spec) && pipeline->is_first());
}

}  // namespace scalebits
