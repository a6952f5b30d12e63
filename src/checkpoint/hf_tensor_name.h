// What Hugging Face calls the tensors of a family whose names differ from Llama's, which are ours.
#pragma once

#include "model/model_spec.h"

#include <string>

namespace scalebits {

/// `name`: one of required_tensors(). OPT: "model.layers.3.mlp.up_proj.bias" → "model.decoder.layers.3.fc1.bias".
std::string hf_tensor_name(Family family, const std::string& name);

}  // namespace scalebits
