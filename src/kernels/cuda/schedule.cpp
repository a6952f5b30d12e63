#include "kernels/cuda/schedule.h"

#include <algorithm>
#include <utility>

namespace scalebits::cuda {

Schedule make_schedule(std::span<const std::uint16_t> widths, int groups, std::uint32_t panel_cells, int most_blocks,
                       int warps) {
  const auto cells = static_cast<std::int64_t>(widths.size());
  Schedule schedule;
  schedule.warps = warps;
  schedule.blocks = static_cast<int>(
      std::clamp<std::int64_t>((cells + kLeastCells * warps - 1) / (kLeastCells * warps), 1, most_blocks));
  const auto bytes_of = [&](std::int64_t cell) {
    return static_cast<std::uint64_t>(cell_bytes(widths[static_cast<std::size_t>(cell)], groups));
  };
  std::uint64_t total = 0;
  for (std::int64_t cell = 0; cell < cells; ++cell) total += bytes_of(cell) + kCellCost;

  const auto runs = static_cast<std::uint64_t>(schedule.blocks * warps);
  std::int64_t cell = 0;
  std::uint64_t byte = 0, cost = 0;
  for (std::uint64_t run = 0; run < runs; ++run) {
    WarpRun next{.first_byte = byte, .last_byte = byte, .first_cell = static_cast<std::uint32_t>(cell)};
    // total·(run + 1) does not overflow: 2^44 bytes and 2^20 runs at most.
    const std::uint64_t end = total * (run + 1) / runs;
    // A cell goes to the run that holds its middle.
    while (cell < cells && (run + 1 == runs || cost + (bytes_of(cell) + kCellCost) / 2 < end)) {
      cost += bytes_of(cell) + kCellCost;
      byte += bytes_of(cell);
      ++cell;
    }
    next.last_byte = byte;
    next.last_cell = static_cast<std::uint32_t>(cell);
    schedule.runs.push_back(next);
    if (run % static_cast<std::uint64_t>(warps) == 0) schedule.block_cells.push_back(next.first_cell);
  }
  schedule.block_cells.push_back(static_cast<std::uint32_t>(cells));

  const auto panels = static_cast<std::uint32_t>(cells) / panel_cells;
  schedule.sharers.assign(panels, 0);
  schedule.first_part.assign(panels, 0);
  schedule.block_part.assign(static_cast<std::size_t>(schedule.blocks), 0);
  std::uint32_t parts = 0;
  for (std::size_t block = 0; block < schedule.block_part.size(); ++block) {
    const std::uint32_t first = schedule.block_cells[block], last = schedule.block_cells[block + 1];
    bool has_parts = false;
    for (std::uint32_t panel = first / panel_cells; has_part(first, last, panel, panel_cells); ++panel) {
      if (schedule.sharers[panel]++ == 0) schedule.first_part[panel] = parts;
      if (has_whole(first, last, panel, panel_cells)) continue;
      if (!std::exchange(has_parts, true)) schedule.block_part[block] = parts;
      ++parts;
    }
  }
  return schedule;
}

}  // namespace scalebits::cuda
