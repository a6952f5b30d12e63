// The frequencies of the rotary position embedding: the angle of pair i of a head at position p is p times frequency i.
// Pairs are (i, i + head_dim/2), as Hugging Face lays them out; GGUF's interleaved rows are reordered when they are
// read.
#pragma once

#include "model/model_spec.h"

#include <vector>

namespace scalebits {

/// head_dim / 2 frequencies in radians per position, after linear or llama3 scaling.
std::vector<double> rope_frequencies(const ModelSpec& spec);

}  // namespace scalebits
