#include "graph/embedding.h"

namespace scalebits {

at::Tensor fetch_positions(const ModelSpec& spec, WeightSource& source) {
  if (spec.positions != PositionKind::learned) return {};
  return source.vector(std::string(kPositionsName)).narrow(0, spec.position_offset, spec.max_positions);
}

void embed(WeightSource& source, const at::Tensor& positions, const at::Tensor& ids, std::int64_t first_position,
           const at::Tensor& rows,
           void (*add_rows)(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& sum)) {
  source.embed(ids, rows);
  if (!positions.defined()) return;
  const std::int64_t length = ids.size(1);
  const at::Tensor added = positions.narrow(0, first_position, length);
  for (std::int64_t window = 0; window < ids.size(0); ++window) {
    const at::Tensor x = rows.narrow(0, window * length, length);
    add_rows(x, added, x);
  }
}

void add_embedding_gradient(const at::Tensor& ids, const at::Tensor& rows, bool squared, const at::Tensor& table) {
  // One thread, so that equal ids add up in one order.
  const std::int64_t width = rows.size(1);
  auto* to = table.data_ptr<float>();
  const auto* id = ids.const_data_ptr<std::int64_t>();
  const auto* from = rows.const_data_ptr<float>();
  for (std::int64_t token = 0; token < ids.numel(); ++token)
    for (std::int64_t i = 0; i < width; ++i) {
      const float added = from[token * width + i];
      to[id[token] * width + i] += squared ? added * added : added;
    }
}

}  // namespace scalebits
