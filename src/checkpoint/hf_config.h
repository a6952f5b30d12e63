// config.json of a Hugging Face model ↔ ModelSpec, for the variations of Llama and OPT. Absent keys take the defaults
// that transformers gives that architecture, because its own writer may leave out what equals a default.
#pragma once

#include "core/float_types.h"
#include "core/json.h"
#include "model/model_spec.h"

#include <string>

namespace scalebits {

/// `generation_config` may be null; its eos_token_id, when it has one, is the one that stops generation.
/// Throws Error(bad_input) naming `where`, the key, wanted and found; an unknown architecture is named with the known.
ModelSpec spec_from_hf_config(const Json& config, const Json& generation_config, const std::string& where);

/// A config.json that transformers and spec_from_hf_config() both read; the tensors are of type `dtype`.
/// Throws Error(bad_input) naming `where` when the architecture cannot say what the spec says.
Json hf_config_from_spec(const ModelSpec& spec, DType dtype, const std::string& where);

}  // namespace scalebits
