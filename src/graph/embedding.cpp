#include "graph/embedding.h"

#include "graph/elementwise.h"

namespace scalebits {

EmbeddingTables fetch_embedding(const ModelSpec& spec, WeightSource& source) {
  EmbeddingTables tables{source.embedding(), {}};
  if (spec.positions == PositionKind::learned)
    tables.positions = source.vector(std::string(kPositionsName)).narrow(0, spec.position_offset, spec.max_positions);
  return tables;
}

void embed(const EmbeddingTables& tables, const at::Tensor& ids, std::int64_t first_position, const at::Tensor& rows) {
  look_up(tables.tokens, ids, rows);
  if (!tables.positions.defined()) return;
  const std::int64_t length = ids.size(1), count = length * tables.positions.size(1);
  const at::Tensor positions = tables.positions.narrow(0, first_position, length);
  for (std::int64_t window = 0; window < ids.size(0); ++window) {
    float* const x = rows.data_ptr<float>() + window * count;
    row_kernels<float>().sum(x, positions.const_data_ptr<float>(), count, x);
  }
}

}  // namespace scalebits
