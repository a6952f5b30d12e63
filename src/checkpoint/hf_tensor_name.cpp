#include "checkpoint/hf_tensor_name.h"

#include <string_view>
#include <utility>

namespace scalebits {

std::string hf_tensor_name(Family family, const std::string& name) {
  if (family != Family::opt || name == kHeadName) return name;
  constexpr std::pair<std::string_view, std::string_view> kParts[] = {
      {"model.", "model.decoder."},
      {".norm.", ".final_layer_norm."},
      {".input_layernorm.", ".self_attn_layer_norm."},
      {".post_attention_layernorm.", ".final_layer_norm."},
      {".o_proj.", ".out_proj."},
      {".mlp.up_proj.", ".fc1."},
      {".mlp.down_proj.", ".fc2."}};
  std::string renamed = name;
  for (const auto& [ours, theirs] : kParts)
    if (const std::size_t at = renamed.find(ours); at != std::string::npos) renamed.replace(at, ours.size(), theirs);
  return renamed;
}

}  // namespace scalebits
