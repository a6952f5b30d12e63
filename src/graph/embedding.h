// The residual stream's first state: each token's row of the embedding and, where positions are learned, its position's
// row of their table.
#pragma once

#include "graph/weight_source.h"
#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// [max_positions, hidden] f32; undefined unless positions are learned.
at::Tensor fetch_positions(const ModelSpec& spec, WeightSource& source);

/// ids [windows, length] int64, all within the vocabulary, the windows starting at `first_position`, all within
/// max_positions → rows [windows * length, hidden] f32.
void embed(WeightSource& source, const at::Tensor& positions, const at::Tensor& ids, std::int64_t first_position,
           const at::Tensor& rows);

}  // namespace scalebits
