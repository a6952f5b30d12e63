// Inside the room: config.json of an OPT model ↔ ModelSpec. Only the form of all sizes but 350m is known: norms before
// what they feed, embedding as wide as the stream, ReLU.
#pragma once

#include "checkpoint/config_keys.h"
#include "model/model_spec.h"

namespace scalebits {

/// Sets all but family and eos_ids. Throws Error(bad_input) naming the key, wanted and found.
void read_opt_config(const ConfigKeys& config, ModelSpec& spec);

/// The keys that are OPT's own: without architecture, type of the tensors and eos_token_id.
Json opt_config(const ModelSpec& spec);

}  // namespace scalebits
