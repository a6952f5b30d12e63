// The contract of the card's layout, on the CPU: what the card's code finds in a blob is what the format says, tile by
// tile; repacked, every code and side code is still there; and a warp's fragments, multiplied as mma.m16n8k16 does and
// corrected, are the tile's product.
#include "cuda_packed.h"

#include <cmath>

namespace scalebits {
namespace {

template <typename Body>
void for_random_matrices(std::uint64_t seed, const Body& body) {
  Dice dice(seed);
  for (int width = 0; width <= kMaxWidth; ++width) {
    const MatrixFormat format = random_packed_format(dice, 40, 200);
    body(dice, format, std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count()), std::uint8_t(width)));
  }
  const std::array<std::int64_t, 6> odd = {1, 5, 64, 129, 576, 700};
  for (const std::int64_t rows : odd)
    for (const std::int64_t cols : odd) {
      const MatrixFormat format = random_packed_format(dice, rows, cols);
      body(dice, format, random_block_widths(dice, format));
    }
}

TEST(CudaLayout, FindsEveryTileWhereTheFormatPutsIt) {
  for_random_matrices(61, [](Dice&, const MatrixFormat& format, const std::vector<std::uint8_t>& widths) {
    const MatrixLayout layout(format, widths, "test");
    const cuda::StoredTiles found = cuda::find_stored_tiles(stored_shape(format), widths);
    ASSERT_EQ(found.blob_bytes, layout.bytes());
    const std::int64_t tile_cols = divide_up(format.cols, kTileCols);
    ASSERT_EQ(static_cast<std::int64_t>(found.tiles.size()), format.tile_row_count() * tile_cols);
    for (std::int64_t row = 0; row < format.tile_row_count(); ++row)
      for (std::int64_t col = 0; col < tile_cols; ++col) {
        const int per_strip = format.block_cols / kTileCols;
        const StripLocation strip = layout.strip(row, col / per_strip);
        const auto t = static_cast<std::uint64_t>(col % per_strip);
        const cuda::StoredTile& tile = found.tiles[static_cast<std::size_t>(row * tile_cols + col)];
        ASSERT_EQ(tile.width, strip.width);
        if (tile.width == 0) continue;
        ASSERT_EQ(tile.codes, strip.codes_offset + t * tile_bytes(strip.width));
        const auto group = t * kTileCols / static_cast<std::uint64_t>(format.group_cols);
        ASSERT_EQ(tile.side, strip.side_offset + group * static_cast<std::uint64_t>(format.group_side_bytes()));
      }
  });
}

TEST(CudaLayout, RepackingKeepsEveryCodeAndSideCode) {
  for_random_matrices(62, [](Dice& dice, const MatrixFormat& format, const std::vector<std::uint8_t>& widths) {
    const RandomPacked packed = random_packed(dice, format, widths);
    const Repacked repacked(packed);
    const int groups = cuda::tile_groups(repacked.shape), per_strip = format.block_cols / kTileCols;
    Strip strip;
    for (std::int64_t row = 0; row < format.tile_row_count(); ++row)
      for (std::int64_t col = 0; col < cuda::tile_col_count(repacked.shape); ++col) {
        const int width = repacked.tile(row, col).width;
        if (width == 0) continue;
        packed.weights->matrix().decode_strip(row, col / per_strip, strip);
        const std::uint32_t* record = repacked.record(row, col);
        const auto first = static_cast<std::size_t>(col % per_strip * kTileCols);
        for (int r = 0; r < kTileRows; ++r) {
          for (int c = 0; c < kTileCols; ++c)
            ASSERT_EQ(cuda::device_code(record, width, groups, r, c),
                      strip.codes[static_cast<std::size_t>(r)][first + static_cast<std::size_t>(c)])
                << "width " << width << ", row " << r << ", input " << c;
          for (int g = 0; g < groups; ++g) {
            const auto group = (first + static_cast<std::size_t>(32 * g)) / static_cast<std::size_t>(format.group_cols);
            const std::uint32_t word = record[8 * g + r % 8];
            ASSERT_EQ(word >> (8 * (r / 8)) & 255, strip.scale_codes[group][static_cast<std::size_t>(r)]);
            ASSERT_EQ(word >> (16 + 8 * (r / 8)) & 255, strip.zero_codes[group][static_cast<std::size_t>(r)]);
          }
        }
      }
    for (const std::uint32_t word : repacked.stream)
      ASSERT_NE(word, 0xdeadbeef) << "a word that no lane wrote, or bad luck of 2^-32";
  });
}

TEST(CudaLayout, EveryRecordIsWhereItsPanelAndCellPutIt) {
  for_random_matrices(66, [](Dice& dice, const MatrixFormat& format, const std::vector<std::uint8_t>& widths) {
    const RandomPacked packed = random_packed(dice, format, widths);
    const Repacked repacked(packed);
    const cuda::StreamPlan& plan = repacked.plan;
    for (std::int64_t row = 0; row < format.tile_row_count(); ++row)
      for (std::int64_t col = 0; col < plan.cells; ++col) {
        const auto panel = static_cast<std::size_t>(row / cuda::kPanelTiles);
        const auto cell = panel * plan.cells + static_cast<std::size_t>(col);
        const int tile = static_cast<int>(row % cuda::kPanelTiles);
        ASSERT_EQ(cuda::cell_width(plan.widths[cell], tile), repacked.tile(row, col).width);
        ASSERT_EQ(plan.panel_bytes[panel] + std::uint64_t{plan.cell_offsets[cell]} * 32 +
                      static_cast<std::uint64_t>(cuda::bytes_above(plan.widths[cell], tile, plan.groups)),
                  plan.records[0][repacked.index(row, col)]);
      }
  });
}

/// A matrix of one tile.
RandomPacked random_tile(Dice& dice, int width) {
  const MatrixFormat format = random_packed_format(dice, 16, 64);
  return random_packed(dice, format,
                       std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count()), std::uint8_t(width)));
}

TEST(CudaLayout, FragmentsHoldOffsetPlusCode) {
  Dice dice(63);
  for (int width = 1; width <= kMaxWidth; ++width)
    for (int repeat = 0; repeat < 4; ++repeat) {
      const RandomPacked packed = random_tile(dice, width);
      const Repacked repacked(packed);
      Strip strip;
      packed.weights->matrix().decode_strip(0, 0, strip);
      for (int lane = 0; lane < cuda::kLanes; ++lane) {
        LaneRegisters registers{};
        cuda::expand_tile(RecordLoad{repacked.record(0, 0)}, width, cuda::tile_groups(repacked.shape), lane,
                          registers.data());
        for (int j = 0; j < cuda::kFragmentRegisters; ++j)
          for (int second = 0; second < 2; ++second) {
            const auto row = static_cast<std::size_t>(cuda::fragment_row(lane, j % 4));
            const auto input = static_cast<std::size_t>(cuda::fragment_input(lane, j / 4, j % 4) + second);
            ASSERT_EQ(half_of(registers[static_cast<std::size_t>(j)], second),
                      float(strip.codes[row][input] + cuda::code_offset(width, j % 2)))
                << "width " << width << ", lane " << lane << ", register " << j;
          }
      }
    }
}

TEST(CudaLayout, SideConstantsAreTheFormatsUpToTwoRoundings) {
  Dice dice(64);
  for (int repeat = 0; repeat < 30; ++repeat) {
    const MatrixFormat format = random_packed_format(dice, 16, 64);
    const cuda::SideConstants side = cuda::make_side_constants(stored_shape(format));
    for (int width = 1; width <= kMaxWidth; ++width)
      for (int half = 0; half < 2; ++half)
        for (int draw = 0; draw < 20; ++draw) {
          const auto scale = static_cast<std::uint32_t>(dice.below(1 << format.side.scale_bits));
          const auto zero = static_cast<std::uint32_t>(dice.below(1 << format.side.zero_bits));
          const cuda::SideValues values = cuda::side_values(side, (scale | zero << 16) << (8 * half), width);
          const float wanted_scale = scale_value(format.side, static_cast<int>(scale), width);
          ASSERT_NEAR(values.scale[half], wanted_scale, wanted_scale * 0x1p-22f);
          const double wanted = double(zero_value(format.side, static_cast<int>(zero), width));
          const int offset = cuda::code_offset(width, half);
          // zero_base and the sum are rounded once each, at most at the size of the range's furthest zero.
          const double size = offset + (1.0 + 2 * double(format.side.zero_range)) * (1 << width);
          ASSERT_NEAR(values.zero[half] - double(offset), wanted, 3 * size * 0x1p-24);
        }
  }
}

TEST(CudaLayout, FragmentsBecomeWeightsInHalves) {
  Dice dice(67);
  int fitting = 0;
  for (int width = 1; width <= kMaxWidth; ++width)
    for (int repeat = 0; repeat < 12; ++repeat) {
      const RandomPacked packed = random_tile(dice, width);
      const MatrixFormat& format = packed.weights->format();
      const Repacked repacked(packed);
      const int groups = cuda::tile_groups(repacked.shape);
      const cuda::SideConstants side = cuda::make_side_constants(repacked.shape);
      if (side.to_half == 0) continue;
      ++fitting;
      ASSERT_EQ(side.to_half * side.from_half, 1);
      const std::vector<float> w = packed.weights->matrix().dequantize();
      for (int lane = 0; lane < cuda::kLanes; ++lane) {
        const std::uint32_t* record = repacked.record(0, 0);
        LaneRegisters registers{};
        cuda::expand_tile(RecordLoad{record}, width, groups, lane, registers.data());
        if (groups == 1) {
          cuda::make_weights<16>(side, record[lane / 4], width, registers.data());
        } else {
          cuda::make_weights<8>(side, record[lane / 4], width, registers.data());
          cuda::make_weights<8>(side, record[8 + lane / 4], width, registers.data() + 8);
        }
        for (int j = 0; j < cuda::kFragmentRegisters; ++j)
          for (int second = 0; second < 2; ++second) {
            const int row = cuda::fragment_row(lane, j % 4), input = cuda::fragment_input(lane, j / 4, j % 4) + second;
            const double wanted = double(w[static_cast<std::size_t>(row * 64 + input)]);
            const std::uint32_t word = record[8 * (groups == 2 ? input / 32 : 0) + row % 8];
            const double step = double(cuda::side_values(side, word, width).scale[row / 8]);
            // And what the f32 zero point has been rounded by.
            const double zero =
                3 * (cuda::code_offset(width, row / 8) + (1.0 + 2 * double(format.side.zero_range)) * (1 << width)) *
                0x1p-24;
            ASSERT_NEAR(double(half_of(registers[static_cast<std::size_t>(j)], second)) * double(side.from_half),
                        wanted, std::abs(wanted) * 0x1p-10 + step * (0x1p-11 + zero))
                << "width " << width << ", row " << row << ", input " << input;
          }
      }
    }
  EXPECT_GE(fitting, 40) << "of 96 tiles";
}

TEST(CudaLayout, RangesTooFarApartForHalvesAreTold) {
  cuda::StoredShape shape{.rows = 16, .cols = 64, .scale_bits = 8, .scale_base = 0.02f, .scale_step_log2 = 0.06f};
  EXPECT_NE(cuda::make_side_constants(shape).to_half, 0);
  shape.scale_step_log2 = 0.1f;  // 25 octaves
  EXPECT_EQ(cuda::make_side_constants(shape).to_half, 0);
}

TEST(CudaLayout, AWarpsProductIsTheTilesProduct) {
  Dice dice(65);
  for (int width = 1; width <= kMaxWidth; ++width)
    for (int repeat = 0; repeat < 6; ++repeat) {
      const RandomPacked packed = random_tile(dice, width);
      const MatrixFormat& format = packed.weights->format();
      const Repacked repacked(packed);
      const int groups = cuda::tile_groups(repacked.shape);
      const cuda::SideConstants side = cuda::make_side_constants(repacked.shape);
      float x[8][64];
      for (auto& token : x)
        for (float& value : token) value = f16_to_f32(f32_to_f16(dice.real()));
      std::array<LaneRegisters, 32> a{};
      std::array<LaneActivations, 32> b{};
      for (std::size_t lane = 0; lane < 32; ++lane) {
        cuda::expand_tile(RecordLoad{repacked.record(0, 0)}, width, groups, static_cast<int>(lane), a[lane].data());
        for (std::size_t reg = 0; reg < b[lane].size(); ++reg)
          for (int second = 0; second < 2; ++second) {
            const int l = static_cast<int>(lane);
            const float value = x[cuda::activation_token(l)][cuda::activation_input(l, static_cast<int>(reg)) + second];
            b[lane][reg] |= std::uint32_t{f32_to_f16(value)} << (16 * second);
          }
      }
      double y[16][8] = {};
      for (int group = 0; group < groups; ++group) {
        Accumulator sums;
        for (int t = group * 2; t < (groups == 2 ? group * 2 + 2 : 4); ++t) sums.multiply_add(a, t, b);
        for (int row = 0; row < 16; ++row)
          for (int token = 0; token < 8; ++token) {
            double sum = 0;
            for (int k = group * 32; k < (groups == 2 ? group * 32 + 32 : 64); ++k) sum += double(x[token][k]);
            const cuda::SideValues values = cuda::side_values(side, repacked.record(0, 0)[8 * group + row % 8], width);
            y[row][token] += double(values.scale[row / 8]) * (sums.c[row][token] - double(values.zero[row / 8]) * sum);
          }
      }
      const std::vector<float> w = packed.weights->matrix().dequantize();
      for (int row = 0; row < 16; ++row)
        for (int token = 0; token < 8; ++token) {
          double wanted = 0, size = 0;
          for (int k = 0; k < 64; ++k) {
            wanted += double(w[static_cast<std::size_t>(row * 64 + k)]) * double(x[token][k]);
            size += (std::abs(double(w[static_cast<std::size_t>(row * 64 + k)])) +
                     double(side.range[(1 << format.side.scale_bits) - 1]) * 32) *
                    std::abs(double(x[token][k]));
          }
          // Scales and zeros are rounded up to three times each, zeros at the size of the offset: at most 32 ranges.
          ASSERT_NEAR(y[row][token], wanted, 4 * 0x1p-24 * size) << "width " << width;
        }
    }
}

TEST(CudaLayout, PairsOfInputsFindTheirRegisters) {
  for (int pair = 0; pair < 32; ++pair)
    for (int token = 0; token < cuda::kTokenBlock; ++token) {
      const int lane = 4 * token + cuda::quad_of_pair(pair);
      EXPECT_EQ(cuda::activation_token(lane), token);
      EXPECT_EQ(cuda::activation_input(lane, cuda::register_of_pair(pair)), 2 * pair);
    }
}

TEST(CudaLayout, TheFactorOfATokenIsThePowerOfTwoBelowItsLargest) {
  EXPECT_EQ(cuda::token_factor(0), 1);
  EXPECT_EQ(cuda::token_factor(1), 1);
  EXPECT_EQ(cuda::token_factor(1.99f), 1);
  EXPECT_EQ(cuda::token_factor(3e38f), 0x1p127f);
  EXPECT_EQ(cuda::token_factor(0x1.8p-140f), 0x1p-126f);
  EXPECT_TRUE(std::isnan(cuda::token_factor(INFINITY)));
  EXPECT_TRUE(std::isnan(cuda::token_factor(NAN)));
}

}  // namespace
}  // namespace scalebits
