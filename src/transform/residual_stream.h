// Which tensors hold channels of the residual stream, the vector of `hidden` numbers that every layer reads and adds
// to. A change of its basis must reach all of them: one forgotten tensor makes another function.
#pragma once

#include "model/model_spec.h"

#include <string>
#include <vector>

namespace scalebits {

struct ResidualTensors {
  // Embedding, learned positions, q, k, v, gate, up, head when untied; biases of o and down.
  std::vector<std::string> last_dimension;
  std::vector<std::string> first_dimension;  // o, down
  std::vector<std::string> norms;            // [hidden] each, weights and biases: two norms per layer and the final one
};

ResidualTensors residual_tensors(const ModelSpec& spec);

/// The norm's linear layers: what is read through it.
struct NormReaders {
  std::string norm;
  std::vector<std::string> readers;  // [outputs, hidden] each
};

/// Every norm of the residual stream with the linears behind it; the final norm has the head. The head must be untied.
std::vector<NormReaders> norm_readers(const ModelSpec& spec);

}  // namespace scalebits
