#include "kernels/cuda/matrices_plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace scalebits::cuda {
namespace {

template <typename T>
std::uint64_t bytes_of(const std::vector<T>& values) {
  return values.size() * sizeof(T);
}

}  // namespace

MatricesPlan plan_matrices(std::span<const StoredMatrix> parts, std::span<const KernelShape> kernels) {
  if (parts.empty() || parts.size() > kMostParts)
    throw std::logic_error("matrices on a device: 1 to " + std::to_string(kMostParts) + " at once");
  MatricesPlan plan;
  for (const StoredMatrix& part : parts) {
    plan.shapes.push_back(part.shape);
    plan.tiles.push_back(find_stored_tiles(part.shape, part.widths));
    if (part.shape.cols != parts[0].shape.cols || tile_groups(part.shape) != tile_groups(parts[0].shape) ||
        !std::ranges::equal(part.input_order, parts[0].input_order) || plan.tiles.back().blob_bytes != part.blob.size())
      throw std::logic_error("matrices on a device must read the same inputs in the same order and be whole");
    plan.side.push_back(make_side_constants(part.shape));
    plan.fit_halves &= plan.side.back().to_half != 0;
  }
  plan.stream = plan_stream(plan.shapes, plan.tiles);
  const StreamPlan& stream = plan.stream;
  plan.bytes = stream.bytes + bytes_of(stream.widths) + bytes_of(stream.panel_bytes) + bytes_of(stream.cell_offsets) +
               bytes_of(plan.side) + parts[0].input_order.size_bytes();
  for (std::size_t part = 0; part < parts.size(); ++part) {
    plan.bytes += parts[part].row_order.size_bytes();
    plan.staging_bytes =
        std::max<std::uint64_t>(plan.staging_bytes, parts[part].blob.size() + bytes_of(plan.tiles[part].tiles) +
                                                        bytes_of(stream.records[part]));
  }
  for (const KernelShape& kernel : kernels) {
    const Schedule& schedule = plan.schedules.emplace_back(
        make_schedule(stream.widths, stream.groups, stream.cells, kernel.blocks, kernel.warps));
    plan.bytes += bytes_of(schedule.runs) + bytes_of(schedule.block_cells) + bytes_of(schedule.block_part) +
                  bytes_of(schedule.first_part) + bytes_of(schedule.sharers) + sizeof(std::uint32_t) * stream.panels;
  }
  return plan;
}

}  // namespace scalebits::cuda
