// A tiny random Llama with calibration windows and a recipe for it: a whole search in a second.
#pragma once

#include "core/random.h"
#include "pack/pack_model.h"
#include "pipeline/search.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace scalebits {

inline Checkpoint random_checkpoint(bool tied, bool biases, Family family = Family::llama) {
  Checkpoint checkpoint;
  checkpoint.spec = {.family = Family::llama,
                     .layers = 2,
                     .hidden = 64,
                     .intermediate = 172,
                     .heads = 8,
                     .kv_heads = 4,
                     .head_dim = 8,
                     .vocab = 128,
                     .max_positions = 64};
  checkpoint.spec.tied_head = tied;
  checkpoint.spec.qkv_bias = checkpoint.spec.o_bias = checkpoint.spec.mlp_bias = biases;
  if (family == Family::opt) {
    ModelSpec& spec = checkpoint.spec;
    spec.family = family;
    spec.norm = NormKind::layer, spec.mlp = MlpKind::relu;
    spec.positions = PositionKind::learned, spec.position_offset = 2;
    // As many weights of linear layers as with a gate, so that budgets are the same.
    spec.intermediate = 258;
  }
  std::uint64_t stream = 0;
  for (const TensorShape& tensor : required_tensors(checkpoint.spec)) {
    std::int64_t count = 1;
    for (const std::int64_t extent : tensor.shape) count *= extent;
    std::vector<float> values(static_cast<std::size_t>(count));
    const CounterRng rng(11, stream++);
    const bool is_norm = tensor.name.find("norm") != std::string::npos;
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(is_norm ? 1 + 0.1 * rng.normal(i) : 0.12 * rng.normal(i) * (1 + (i % 7 == 0)));
    // Through f16, so that storing the unquantised tensors in 16 bits changes nothing.
    for (float& value : values) value = f16_to_f32(f32_to_f16(value));
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::move(values));
  }
  checkpoint.source = "random";
  checkpoint.hash = "random";
  return checkpoint;
}

inline CalibrationSet random_calibration() {
  const auto windows = [](std::int64_t count, std::uint64_t stream) {
    at::Tensor ids = at::empty({count, 32}, at::kLong);
    const CounterRng rng(3, stream);
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      ids.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), 128));
    return ids;
  };
  return {windows(12, 1), windows(4, 2), "calibration"};
}

inline Recipe small_recipe() {
  Recipe recipe;
  recipe.bpw = 3.0;
  recipe.embedding = EmbeddingMode::sixteen_bits;
  recipe.windows_per_gradient = 4;
  recipe.descent_steps = 3;
  recipe.swap_steps = 2;
  return recipe;
}

/// The size of the whole file or of the linear layers, as `quantize` counts it.
inline Budget budget_for(const Checkpoint& checkpoint, const Recipe& recipe, std::uint64_t bytes) {
  return {bytes, [&](const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan) {
            ArtifactDescription description = describe_artifact(checkpoint, partition, matrices, to_json(recipe));
            set_widths(description, matrices, plan);
            const ArtifactSizes sizes = artifact_sizes(description);
            return recipe.bpw ? sizes.linear_bytes : sizes.file();
          }};
}

inline constexpr std::uint64_t kLinearWeights = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 172);

}  // namespace scalebits
