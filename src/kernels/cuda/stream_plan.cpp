#include "kernels/cuda/stream_plan.h"

namespace scalebits::cuda {

StreamPlan plan_stream(std::span<const StoredShape> shapes, std::span<const StoredTiles> tiles) {
  StreamPlan plan;
  plan.groups = tile_groups(shapes[0]);
  plan.cells = static_cast<std::uint32_t>(tile_col_count(shapes[0]));
  plan.records.resize(shapes.size());
  for (std::size_t part = 0; part < shapes.size(); ++part) {
    const std::int64_t tile_rows = tile_row_count(shapes[part]);
    std::vector<std::uint64_t>& records = plan.records[part];
    records.resize(tiles[part].tiles.size());
    plan.first_panels.push_back(plan.panels);
    for (std::int64_t first = 0; first < tile_rows; first += kPanelTiles, ++plan.panels) {
      plan.panel_bytes.push_back(plan.bytes);
      for (std::int64_t cell = 0; cell < plan.cells; ++cell) {
        plan.cell_offsets.push_back(static_cast<std::uint32_t>((plan.bytes - plan.panel_bytes.back()) / 32));
        std::uint32_t widths = 0;
        for (int t = 0; t < kPanelTiles && first + t < tile_rows; ++t) {
          const auto at = static_cast<std::size_t>((first + t) * plan.cells + cell);
          const int width = tiles[part].tiles[at].width;
          records[at] = plan.bytes;
          plan.bytes += static_cast<std::uint64_t>(record_bytes(width, plan.groups));
          widths |= static_cast<std::uint32_t>(width) << (4 * t);
        }
        plan.widths.push_back(static_cast<std::uint16_t>(widths));
      }
    }
  }
  return plan;
}

}  // namespace scalebits::cuda
