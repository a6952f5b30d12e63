// The residual stream's first state: each token's row of the embedding and, where positions are learned, its position's
// row of their table. And what of a gradient comes back to the embedding.
#pragma once

#include "graph/elementwise.h"
#include "graph/weight_source.h"
#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// [max_positions, hidden] f32; undefined unless positions are learned.
at::Tensor fetch_positions(const ModelSpec& spec, WeightSource& source);

/// rows [windows * length, hidden] f32: each token's row of the embedding, plus, where `positions` is defined, that of
/// its position, windows starting at `first_position`, all within the table. add_rows: `add` of the Arithmetic of the
/// place where rows and positions lie. ids [windows, length] int64 in host memory, all within the vocabulary.
void embed(WeightSource& source, const at::Tensor& positions, const at::Tensor& ids, std::int64_t first_position,
           const at::Tensor& rows,
           void (*add_rows)(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum) = add);

/// table[ids[i]] += rows[i], or its squares. ids int64 in host memory, any shape; rows [ids.numel(), hidden] and table
/// [vocab, hidden] f32. Equal ids add up in one order, whatever the number of threads.
void add_embedding_gradient(const at::Tensor& ids, const at::Tensor& rows, bool squared, const at::Tensor& table);

}  // namespace scalebits
