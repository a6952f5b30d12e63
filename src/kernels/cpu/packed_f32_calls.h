// What the portable half of the exact packed kernel (packed_f32.cpp) hands to the half that is compiled for each
// instruction set: plain numbers and pointers only, as in dense_calls.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scalebits {

/// 16 rows x 64 inputs of a width of 1 to 8, with the scales and zeros of its one or two groups, row by row.
struct PackedF32Tile {
  const std::byte* codes = nullptr;
  int width = 0;
  std::int64_t index = 0;  // inputs 64·index …
  alignas(64) float scales[2][16];
  alignas(64) float zeros[2][16];
};

/// y[i, 16] = the products of some rows of x with 16 rows of W.
struct PackedF32Call {
  const PackedF32Tile* tiles = nullptr;
  std::int64_t tile_count = 0;
  int groups = 1;  // of a tile: 1 of 64 inputs, or 2 of 32
  // Rows of x in passes of pass_rows, the last one shorter: [pass][input][row of the pass].
  const float* x = nullptr;
  std::int64_t x_rows = 0;
  std::int64_t pass_rows = 0;
  std::int64_t cols = 0;
  float* panel = nullptr;  // scratch, [64, 16]
  float* y = nullptr;
};

void packed_f32_scalar(const PackedF32Call& call);
void packed_f32_avx2(const PackedF32Call& call);
void packed_f32_avx512(const PackedF32Call& call);

/// The most rows that a pass may have, by set: so many sums fit its registers.
inline constexpr std::int64_t kPackedF32PassScalar = 8;
inline constexpr std::int64_t kPackedF32PassAvx2 = 5;
inline constexpr std::int64_t kPackedF32PassAvx512 = 14;

}  // namespace scalebits
