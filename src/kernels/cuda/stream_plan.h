// Where everything lies in the stream of one or several matrices, found on the host when they are loaded.
#pragma once

#include "kernels/cuda/device_layout.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits::cuda {

struct StreamPlan {
  std::uint32_t panels = 0, cells = 0;      // cells of each panel
  int groups = 1;                           // of each cell
  std::uint64_t bytes = 0;                  // of the stream
  std::vector<std::uint32_t> first_panels;  // [part]
  std::vector<std::uint16_t> widths;        // [panel, cell]
  std::vector<std::uint64_t> panel_bytes;   // [panel]: where it begins
  std::vector<std::uint32_t> cell_offsets;  // [panel, cell]: bytes from the panel's beginning, divided by 32
  /// [part]: of each stored tile, [tile row, tile column], where its record begins.
  std::vector<std::vector<std::uint64_t>> records;
};

/// `tiles` [part]: as find_stored_tiles() finds them for `shapes`, which agree in columns and tile_groups().
StreamPlan plan_stream(std::span<const StoredShape> shapes, std::span<const StoredTiles> tiles);

}  // namespace scalebits::cuda
