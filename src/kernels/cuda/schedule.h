// Who computes what in a product that reads the weights once: the stream of cells is cut into as many runs as there are
// warps, of about the same number of bytes each, wherever the cuts fall. A panel that several runs share is summed up
// in the order of the runs: first those of one thread block, in its shared memory, then the blocks', by whichever block
// arrives last; so results are the same bits every time. A run or a block shares at most two of its panels with others
// (its first and its last), which bounds the room for partial sums.
#pragma once

#include "kernels/cuda/device_layout.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits::cuda {

/// Cells [first_cell, last_cell), counted panel by panel; their records are consecutive from first_byte of the stream.
struct WarpRun {
  std::uint64_t first_byte = 0;
  std::uint64_t last_byte = 0;
  std::uint32_t first_cell = 0;
  std::uint32_t last_cell = 0;
};

struct Schedule {
  int blocks = 0;
  int warps = 0;                           // of each block
  std::vector<WarpRun> runs;               // [block, warp], consecutive
  std::vector<std::uint32_t> block_cells;  // block b computes cells [block_cells[b], block_cells[b + 1])
  std::vector<std::uint32_t> sharers;      // [panel]: how many blocks have cells of it
  // Parts of panels that several blocks share, numbered panel by panel and in each by blocks: [panel] its first one,
  // [block] the block's own of the first such panel that it has cells of.
  std::vector<std::uint32_t> first_part, block_part;
};

/// Charged for a cell beside its bytes: what a warp does for it whatever its widths.
inline constexpr std::uint64_t kCellCost = 128;
/// A warp is given so many cells at least, or fewer blocks are used.
inline constexpr std::int64_t kLeastCells = 4;

/// `widths`: of each cell, panel by panel (device_layout.h). Uses at most `most_blocks` blocks.
Schedule make_schedule(std::span<const std::uint16_t> widths, int groups, std::uint32_t panel_cells, int most_blocks,
                       int warps);

/// Whether cells [first, last) hold some, or all, of the panel's.
SCALEBITS_HD constexpr bool has_part(std::uint32_t first, std::uint32_t last, std::uint32_t panel,
                                     std::uint32_t panel_cells) {
  return first < last && first < (panel + 1) * panel_cells && last > panel * panel_cells;
}
SCALEBITS_HD constexpr bool has_whole(std::uint32_t first, std::uint32_t last, std::uint32_t panel,
                                      std::uint32_t panel_cells) {
  return first <= panel * panel_cells && last >= (panel + 1) * panel_cells;
}
}  // namespace scalebits::cuda
