#include "transform/residual_stream.h"

namespace scalebits {

std::vector<NormReaders> norm_readers(const ModelSpec& spec) {
  std::vector<NormReaders> norms;
  const auto named = [](std::int64_t layer, std::span<const LinearKind> kinds) {
    std::vector<std::string> names;
    for (const LinearKind kind : kinds) names.push_back(linear_name(layer, kind));
    return names;
  };
  constexpr std::array kAttentionInputs = {LinearKind::q, LinearKind::k, LinearKind::v};
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    norms.push_back({layer_tensor(layer, "input_layernorm.weight"), named(layer, kAttentionInputs)});
    norms.push_back({layer_tensor(layer, "post_attention_layernorm.weight"), named(layer, mlp_inputs(spec))});
  }
  norms.push_back({std::string(kFinalNormName), {std::string(kHeadName)}});
  return norms;
}

ResidualTensors residual_tensors(const ModelSpec& spec) {
  ResidualTensors tensors;
  tensors.last_dimension.emplace_back(kEmbeddingName);
  if (spec.positions == PositionKind::learned) tensors.last_dimension.emplace_back(kPositionsName);
  for (const auto& [norm, readers] : norm_readers(spec)) {
    tensors.norms.push_back(norm);
    if (spec.norm == NormKind::layer) tensors.norms.push_back(norm_bias_name(norm));
    for (const std::string& reader : readers)
      if (!(spec.tied_head && reader == kHeadName)) tensors.last_dimension.push_back(reader);
  }
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : {LinearKind::o, LinearKind::down}) {
      tensors.first_dimension.push_back(linear_name(layer, kind));
      if (has_bias(spec, kind)) tensors.last_dimension.push_back(bias_name(layer, kind));
    }
  return tensors;
}

}  // namespace scalebits
