// Random packed matrices as the card sees them, and one warp's arithmetic on the CPU.
#pragma once

#include "random_packed.h"

#include "core/float_types.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/prepared_layout.h"
#include "kernels/cuda/stream_plan.h"

#include <gtest/gtest.h>

#include <cstring>

namespace scalebits {

inline const std::uint8_t* bytes_of(const RandomPacked& packed) {
  return reinterpret_cast<const std::uint8_t*>(packed.blob.data());
}

/// The whole stream of one matrix, repacked lane by lane.
struct Repacked {
  explicit Repacked(const RandomPacked& packed)
      : shape(stored_shape(packed.weights->format())),
        tiles(cuda::find_stored_tiles(shape, packed.weights->matrix().widths())),
        plan(cuda::plan_stream({&shape, 1}, {&tiles, 1})), stream(plan.bytes / 4, 0xdeadbeef) {
    for (std::size_t i = 0; i < tiles.tiles.size(); ++i)
      for (int lane = 0; lane < cuda::kLanes; ++lane)
        cuda::repack_tile(shape, bytes_of(packed), tiles.tiles[i], lane, stream.data() + plan.records[0][i] / 4);
  }
  const std::uint32_t* record(std::int64_t tile_row, std::int64_t tile_col) const {
    return stream.data() + plan.records[0][index(tile_row, tile_col)] / 4;
  }
  const cuda::StoredTile& tile(std::int64_t tile_row, std::int64_t tile_col) const {
    return tiles.tiles[index(tile_row, tile_col)];
  }
  std::size_t index(std::int64_t tile_row, std::int64_t tile_col) const {
    return static_cast<std::size_t>(tile_row * cuda::tile_col_count(shape) + tile_col);
  }
  cuda::StoredShape shape;
  cuda::StoredTiles tiles;
  cuda::StreamPlan plan;
  std::vector<std::uint32_t> stream;
};

/// Reads a record in ordinary memory.
struct RecordLoad {
  const std::uint32_t* record;
  template <int n>
  void words(int byte, std::uint32_t* out) const {
    ASSERT_EQ(byte % (4 * n), 0) << "the card loads " << n << " words at once";
    std::memcpy(out, record + byte / 4, 4 * n);
  }
};

using LaneRegisters = std::array<std::uint32_t, cuda::kFragmentRegisters>;
using LaneActivations = std::array<std::uint32_t, cuda::kBlockRegisters>;

inline float half_of(std::uint32_t word, int which) {
  return f16_to_f32(static_cast<std::uint16_t>(word >> (16 * which)));
}

/// c [row, token] += a · b as the instruction defines it, lane by lane.
struct Accumulator {
  double c[16][8] = {};
  void multiply_add(const std::array<LaneRegisters, 32>& a, int t, const std::array<LaneActivations, 32>& b) {
    float rows[16][16], tokens[16][8];
    for (std::size_t lane = 0; lane < 32; ++lane) {
      const std::size_t g = lane / 4, k = lane % 4 * 2;
      for (std::size_t r = 0; r < 4; ++r)
        for (std::size_t second = 0; second < 2; ++second)
          rows[g + 8 * (r % 2)][k + 8 * (r / 2) + second] =
              half_of(a[lane][static_cast<std::size_t>(4 * t) + r], static_cast<int>(second));
      for (std::size_t r = 0; r < 2; ++r)
        for (std::size_t second = 0; second < 2; ++second)
          tokens[k + 8 * r + second][g] =
              half_of(b[lane][static_cast<std::size_t>(2 * t) + r], static_cast<int>(second));
    }
    for (int row = 0; row < 16; ++row)
      for (int token = 0; token < 8; ++token)
        for (int k = 0; k < 16; ++k) c[row][token] += double(rows[row][k]) * double(tokens[k][token]);
  }
};

}  // namespace scalebits
