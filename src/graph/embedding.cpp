#include "graph/embedding.h"

#include "graph/elementwise.h"

namespace scalebits {

at::Tensor fetch_positions(const ModelSpec& spec, WeightSource& source) {
  if (spec.positions != PositionKind::learned) return {};
  return source.vector(std::string(kPositionsName)).narrow(0, spec.position_offset, spec.max_positions);
}

void embed(WeightSource& source, const at::Tensor& positions, const at::Tensor& ids, std::int64_t first_position,
           const at::Tensor& rows) {
  source.embed(ids, rows);
  if (!positions.defined()) return;
  const std::int64_t length = ids.size(1), count = length * positions.size(1);
  const at::Tensor added = positions.narrow(0, first_position, length);
  for (std::int64_t window = 0; window < ids.size(0); ++window) {
    float* const x = rows.data_ptr<float>() + window * count;
    row_kernels<float>().sum(x, added.const_data_ptr<float>(), count, x);
  }
}

}  // namespace scalebits
