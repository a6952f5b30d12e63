// The packed_i8 product with one row of activations, as decoding has it, of matrices in the default format: a stripe is
// walked tile after tile, and the function of each tile ends by jumping to the one that the next tile's width names. So
// nothing is put away and brought back between tiles, and the processor, which guesses each jump by itself, sees a
// wrong guess while it still has work. docs/kernels.md has what that is worth. Included at the end of packed_i8_body.h.
#pragma once

#include "kernels/cpu/packed_i8_body.h"

namespace scalebits {
namespace {

inline constexpr int kWalkRows = 4;  // tile rows of a stripe

/// All in one place, so that a tile's function needs no register that it would have to put away first.
struct Walk {
  SideStream scale_stream, zero_stream;
  const SideTable& table;
  std::ptrdiff_t zeros_at, group_bytes;  // of a group's side information
  float* y;                              // [kWalkRows][16]
};

/// A tile in tile row Row of the stripe and of this width, whose codes, side information, activations, and scale and
/// sum of the activations the pointers have reached.
template <class V, int Row, int Width>
void step(const Walk& walk, const std::byte* codes, const std::byte* side, const std::uint8_t* width,
          const std::int8_t* values, const float* scales, typename V::Ints octaves);
template <class V>
using Step = decltype(&step<V, 0, 0>);

template <class V, int Row>
constexpr Step<V> kSteps[kNoWidth + 1] = {step<V, Row, 0>, step<V, Row, 1>,       step<V, Row, 2>, step<V, Row, 3>,
                                          step<V, Row, 4>, step<V, Row, 5>,       step<V, Row, 6>, step<V, Row, 7>,
                                          step<V, Row, 8>, step<V, Row, kNoWidth>};

template <class V, int Row, int Width>
void step(const Walk& walk, const std::byte* codes, const std::byte* side, const std::uint8_t* width,
          const std::int8_t* values, const float* scales, typename V::Ints octaves) {
  if constexpr (Width != kNoWidth) {
    const Step<V> next = kSteps<V, (Row + 1) % kWalkRows>[width[1]];
    if constexpr (Width > 0) {
      constexpr auto kWidth = static_cast<std::size_t>(Width);
      fetch_ahead(codes, tile_bytes(Width));
      typename V::Sum sums[V::kParts];
      products<V, 1, Width, 0, kTileCols / 4>(codes, values, sums);
      unrolled<V::kParts>([&](auto part) SCALEBITS_STEP {
        const auto scale_codes = V::unmasked_codes(walk.scale_stream, side, part),
                   zero_codes = V::unmasked_codes(walk.zero_stream, side + walk.zeros_at, part);
        const auto scale = V::look_up_octaves(walk.table.scales[kWidth].data(), scale_codes, octaves),
                   zero = V::look_up_16(walk.table.zeros[kWidth].data(), zero_codes);
        const auto centred = V::subtract_product(V::to_floats(sums[part]), zero, V::broadcast(scales + 1));
        float* const y = walk.y + Row * kTileRows + part * V::kLanes;
        V::store(y, V::multiply_add(centred, V::multiply(scale, V::broadcast(scales)), V::load(y)));
      });
      codes += tile_bytes(Width);
      side += walk.group_bytes;
    }
    constexpr bool kColumnEnds = Row == kWalkRows - 1;
    return next(walk, codes, side, width + 1, values + (kColumnEnds ? kTileCols : 0), scales + (kColumnEnds ? 2 : 0),
                octaves);
  }
}

/// Whether a walk computes what the matrix' format asks for; if not, run_stripes does.
inline bool can_walk(const PackedWeights& weights) {
  const MatrixFormat& format = weights.format();
  return format.block_cols == kTileCols && format.group_cols == kTileCols &&
         format.stripe_rows() == kWalkRows * kTileRows && format.side.zero_bits <= 4 && weights.side().octave_of_eight;
}

/// Stripes [first, last), all of four tile rows, for row `x_row` of the activations.
template <class V>
void walk_stripes(const PackedTask& task, std::int64_t x_row, std::int64_t first, std::int64_t last) {
  const PackedWeights& weights = *task.weights;
  const RowBlock x = row_block<1>(*task.x, x_row, nullptr);
  alignas(64) float y[kWalkRows * kTileRows];
  const SideFormat& side = weights.format().side;
  const Walk walk{weights.scale_stream(),
                  weights.zero_stream(),
                  weights.side(),
                  2 * side.scale_bits,
                  weights.format().group_side_bytes(),
                  y};
  for (std::int64_t stripe = first; stripe < last; ++stripe) {
    std::fill_n(y, kWalkRows * kTileRows, 0.0f);
    const std::uint8_t* width = weights.stripe_widths(stripe);
    kSteps<V, 0>[*width](walk, weights.stripe_codes(stripe), weights.stripe_side(stripe), width, x.values, x.scales,
                         octaves<V>(side.scale_bits));
    for (int row = 0; row < kWalkRows; ++row)
      store_tile_row(task, stripe * kWalkRows + row, x_row, 1, y + row * kTileRows);
  }
}

}  // namespace
}  // namespace scalebits
