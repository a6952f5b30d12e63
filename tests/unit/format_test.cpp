// format: what is packed reads back exactly; every byte is where docs/format.md says; packed_bytes() is the size of the
// blob for any shape and mix of widths; broken blobs are refused and any accepted blob is read inside its bounds.
#include "core/random.h"
#include "format/packed_matrix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

namespace scalebits {
namespace {

/// Bit `bit` of the code at (row, input), found by the words of the specification and nothing else.
int specified_code(int width, std::span<const std::byte> tile, int row, int input) {
  int code = 0, low = 0, plane_start = 0;
  for (const int p : kPlanes[static_cast<std::size_t>(width)]) {
    if (p == 0) break;
    const int fields = 8 / p;
    const int vector = input / (4 * fields), field = input % (4 * fields) / 4, k = input % 4;
    const int byte = std::to_integer<int>(tile[static_cast<std::size_t>(plane_start + 64 * vector + 4 * row + k)]);
    code |= (byte >> (p * field) & ((1 << p) - 1)) << low;
    low += p;
    plane_start += 128 * p;
  }
  return code;
}

TEST(TileCodec, EveryCodeAtEveryPositionOfEveryWidth) {
  for (int width = 1; width <= kMaxWidth; ++width) {
    int bits = 0;
    for (const int p : kPlanes[static_cast<std::size_t>(width)]) bits += p;
    ASSERT_EQ(bits, width);
    const int levels = 1 << width;
    std::vector<std::byte> tile(tile_bytes(width));
    std::array<std::uint8_t, kTileValues> codes, back;
    for (int shift = 0; shift < levels; ++shift) {  // each position sees each code once, its neighbours others
      for (std::size_t i = 0; i < codes.size(); ++i)
        codes[i] = static_cast<std::uint8_t>((i * 37 + i / 64 * 11 + static_cast<std::size_t>(shift)) %
                                             static_cast<std::size_t>(levels));
      encode_tile(width, codes, tile);
      decode_tile(width, tile, back);
      ASSERT_EQ(codes, back) << width;
      for (int row = 0; row < kTileRows; ++row) {
        std::array<std::uint8_t, kTileCols> one;
        decode_tile_row(width, tile, row, one);
        ASSERT_EQ(std::memcmp(one.data(), codes.data() + row * kTileCols, kTileCols), 0);
        for (int input = 0; input < kTileCols; ++input)
          ASSERT_EQ(specified_code(width, tile, row, input), codes[static_cast<std::size_t>(row * kTileCols + input)])
              << width;
      }
    }
  }
}

TEST(SideFormat, CodesAreALittleEndianBitStream) {
  const CounterRng rng(1);
  for (int bits = 0; bits <= 8; ++bits)
    for (int shift = 0; shift < 1 << bits; ++shift) {
      std::array<std::uint8_t, 16> codes, back;
      for (std::size_t i = 0; i < 16; ++i)
        codes[i] = static_cast<std::uint8_t>((i * 7 + static_cast<std::size_t>(shift)) % (std::size_t{1} << bits));
      std::vector<std::byte> stream(static_cast<std::size_t>(2 * bits), std::byte{0xff});
      encode_side_codes(bits, codes, stream);
      decode_side_codes(bits, stream, back);
      ASSERT_EQ(codes, back);
      for (int i = 0; i < 16; ++i) {
        int specified = 0;
        for (int b = 0; b < bits; ++b) {
          const int at = i * bits + b;
          specified |= (std::to_integer<int>(stream[static_cast<std::size_t>(at / 8)]) >> (at % 8) & 1) << b;
        }
        ASSERT_EQ(specified, codes[static_cast<std::size_t>(i)]);
        ASSERT_EQ(decode_side_code(bits, stream, i), codes[static_cast<std::size_t>(i)]);
      }
    }
}

TEST(SideFormat, ScalesAreLogarithmicAndZerosRelativeToTheCentre) {
  const SideFormat side{
      .scale_bits = 6, .zero_bits = 4, .scale_base = 0.01f, .scale_step_log2 = 0.25f, .zero_range = 0.5f};
  EXPECT_EQ(scale_value(side, 0, 1), 0.01f);
  EXPECT_FLOAT_EQ(scale_value(side, 8, 1), 0.04f);
  EXPECT_FLOAT_EQ(scale_value(side, 8, 2), 0.04f / 3);
  EXPECT_EQ(zero_value(side, 8, 4), 7.5f);         // the centre code
  EXPECT_EQ(zero_value(side, 0, 4), 7.5f - 8.0f);  // centre − zero_range · 16
  EXPECT_EQ(zero_value(side, 15, 2), 1.5f + 7 * 0.5f * 4 / 8);
  EXPECT_EQ(zero_value({.zero_bits = 0}, 0, 3), 3.5f);
}

TEST(SideFormat, FloatsSurviveJsonExactlyAndShortly) {
  const CounterRng rng(2);
  int count = 0, longer = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(rng.bits(static_cast<std::uint64_t>(i))));
    if (!std::isfinite(value)) continue;
    const std::string text = Json(shortest_decimal(value)).dump();
    ASSERT_EQ(parse_json(text, "test").get<float>(), value) << text;
    ++count;
    if (text.size() > 18) ++longer;  // sign, 9 digits, exponent; or 15 digits and ".0"
  }
  EXPECT_LE(longer, count / 100);  // nlohmann's printer misses the shortest form of about one f64 in a thousand
  EXPECT_EQ(Json(shortest_decimal(0.1f)).dump(), "0.1");
}

MatrixFormat random_format(const CounterRng& rng, std::uint64_t& draw) {
  const auto pick = [&](std::initializer_list<int> choices) {
    return choices.begin()[rng.below(draw++, choices.size())];
  };
  MatrixFormat format;
  format.rows = 1 + static_cast<std::int64_t>(rng.below(draw++, 200));
  format.cols = 1 + static_cast<std::int64_t>(rng.below(draw++, 200));
  format.block_rows = pick({16, 32, 64, 128});
  format.block_cols = pick({64, 128});
  format.group_cols = pick({32, 64, 128});
  if (format.group_cols > format.block_cols) format.group_cols = 64;
  format.side = {.scale_bits = 4 + static_cast<int>(rng.below(draw++, 5)),
                 .zero_bits = static_cast<int>(rng.below(draw++, 9)),
                 .scale_base = 0.003f,
                 .scale_step_log2 = 0.11f,
                 .zero_range = 0.7f};
  return format;
}

std::vector<std::uint8_t> random_widths(const MatrixFormat& format, const CounterRng& rng, std::uint64_t& draw) {
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()));
  for (std::uint8_t& width : widths) width = static_cast<std::uint8_t>(rng.below(draw++, 9));
  return widths;
}

/// Codes that depend on the place alone, also beyond the matrix, where they must not matter.
StripSource random_codes(const MatrixFormat& format, std::uint64_t seed) {
  return [format, seed](std::int64_t tile_row, std::int64_t block_col, int width, Strip& strip) {
    const CounterRng rng(seed, static_cast<std::uint64_t>(tile_row * 1000 + block_col));
    std::uint64_t draw = 0;
    for (auto& row : strip.codes)
      for (std::uint8_t& code : row) code = static_cast<std::uint8_t>(rng.bits(draw++) >> (64 - width));
    for (auto& group : strip.scale_codes)
      for (std::uint8_t& code : group)
        code = static_cast<std::uint8_t>(rng.below(draw++, std::uint64_t{1} << format.side.scale_bits));
    for (auto& group : strip.zero_codes)
      for (std::uint8_t& code : group)
        code = static_cast<std::uint8_t>(rng.below(draw++, std::uint64_t{1} << format.side.zero_bits));
  };
}

std::vector<std::byte> pack(const MatrixFormat& format, const std::vector<std::uint8_t>& widths, std::uint64_t seed) {
  std::vector<std::byte> blob(packed_bytes(format, widths), std::byte{0xaa});
  pack_matrix(format, widths, random_codes(format, seed), blob);
  return blob;
}

/// What the codes of random_codes() mean, straight from the source: no layout, no codec.
std::vector<float> naive_values(const MatrixFormat& format, const std::vector<std::uint8_t>& widths,
                                std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(format.rows * format.cols), 0.0f);
  const StripSource source = random_codes(format, seed);
  for (std::int64_t tile_row = 0; tile_row < format.tile_row_count(); ++tile_row)
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
      const int width =
          widths[static_cast<std::size_t>(format.block_index(tile_row * 16 / format.block_rows, block_col))];
      if (width == 0) continue;
      Strip strip;
      source(tile_row, block_col, width, strip);
      for (std::int64_t row = tile_row * 16; row < std::min(format.rows, tile_row * 16 + 16); ++row)
        for (std::int64_t col = block_col * format.block_cols;
             col < std::min<std::int64_t>(format.cols, (block_col + 1) * format.block_cols); ++col) {
          const auto r = static_cast<std::size_t>(row % 16), c = static_cast<std::size_t>(col % format.block_cols);
          const std::size_t group = c / static_cast<std::size_t>(format.group_cols);
          values[static_cast<std::size_t>(row * format.cols + col)] =
              scale_value(format.side, strip.scale_codes[group][r], width) *
              (static_cast<float>(strip.codes[r][c]) - zero_value(format.side, strip.zero_codes[group][r], width));
        }
    }
  return values;
}

/// Reads a blob front to back with nothing but two cursors, as docs/format.md tells it. Returns the bytes consumed.
std::size_t sequential_read(const MatrixFormat& f, std::span<const std::byte> blob, std::vector<float>& values) {
  values.assign(static_cast<std::size_t>(f.rows * f.cols), 0.0f);
  const auto up = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
  const int stripe_rows = f.block_rows == 128 ? 128 : 64;
  const std::int64_t blocks_across = (f.cols + f.block_cols - 1) / f.block_cols,
                     blocks_down = (f.rows + f.block_rows - 1) / f.block_rows;
  std::size_t tag = 0, cursor = up(static_cast<std::size_t>((blocks_across * blocks_down + 1) / 2));
  for (std::int64_t stripe = 0; stripe < f.rows; stripe += stripe_rows) {
    const std::int64_t end = std::min<std::int64_t>(f.rows, stripe + stripe_rows);
    struct Item {
      std::int64_t row, col;
      int width;
    };
    std::vector<Item> strips;
    for (std::int64_t col = 0; col < f.cols; col += f.block_cols)
      for (std::int64_t block = stripe; block < end; block += f.block_rows, ++tag) {
        const int width = std::to_integer<int>(blob[tag / 2]) >> (tag % 2 * 4) & 15;
        for (std::int64_t row = block; row < std::min<std::int64_t>(end, block + f.block_rows); row += 16)
          if (width > 0) strips.push_back({row, col, width});
      }
    const auto tiles = [&](const Item& item) {
      return (std::min<std::int64_t>(f.block_cols, f.cols - item.col) + 63) / 64;
    };
    const auto side_size = static_cast<std::size_t>(2 * f.side.scale_bits + 2 * f.side.zero_bits);
    std::size_t side = cursor, codes = cursor;
    for (const Item& item : strips)
      codes += static_cast<std::size_t>((tiles(item) * 64 + f.group_cols - 1) / f.group_cols) * side_size;
    codes = cursor + up(codes - cursor);
    for (const Item& item : strips) {
      for (std::int64_t c = 0; c < std::min<std::int64_t>(f.block_cols, f.cols - item.col); ++c)
        for (int r = 0; r < 16 && item.row + r < f.rows; ++r) {
          const auto group = blob.subspan(side + static_cast<std::size_t>(c / f.group_cols) * side_size, side_size);
          const auto scale_bytes = static_cast<std::size_t>(2 * f.side.scale_bits);
          const float scale =
              scale_value(f.side, decode_side_code(f.side.scale_bits, group.first(scale_bytes), r), item.width);
          const float zero =
              zero_value(f.side, decode_side_code(f.side.zero_bits, group.subspan(scale_bytes), r), item.width);
          const auto tile = blob.subspan(codes + static_cast<std::size_t>(c / 64) * tile_bytes(item.width));
          const int code = specified_code(item.width, tile, r, static_cast<int>(c % 64));
          values[static_cast<std::size_t>((item.row + r) * f.cols + item.col + c)] =
              scale * (static_cast<float>(code) - zero);
        }
      side += static_cast<std::size_t>((tiles(item) * 64 + f.group_cols - 1) / f.group_cols) * side_size;
      codes += static_cast<std::size_t>(tiles(item)) * tile_bytes(item.width);
    }
    cursor = codes;
  }
  return cursor;
}

TEST(PackedMatrix, SizeBytesAndValuesAreAsSpecifiedForAnyShape) {
  const CounterRng rng(3);
  std::uint64_t draw = 0;
  std::set<std::tuple<int, int, int>> shapes;
  for (std::uint64_t trial = 0; trial < 150; ++trial) {
    const MatrixFormat format = random_format(rng, draw);
    shapes.insert({format.block_rows, format.block_cols, format.group_cols});
    const auto widths = random_widths(format, rng, draw);
    SCOPED_TRACE(to_json(format).dump());
    const auto blob = pack(format, widths, trial);
    ASSERT_EQ(blob.size() % 64, 0u);

    std::vector<float> sequential;
    ASSERT_EQ(sequential_read(format, blob, sequential), blob.size());
    const auto naive = naive_values(format, widths, trial);
    ASSERT_EQ(sequential, naive);

    const PackedMatrix matrix(format, blob, "test");
    ASSERT_TRUE(std::equal(widths.begin(), widths.end(), matrix.widths().begin(), matrix.widths().end()));
    ASSERT_EQ(matrix.dequantize(), naive);
    for (int i = 0; i < 4; ++i) {  // any run of rows, of which one is a single row
      const auto first = static_cast<std::int64_t>(rng.below(draw++, static_cast<std::uint64_t>(format.rows)));
      const auto count =
          i == 0 ? 1
                 : 1 + static_cast<std::int64_t>(rng.below(draw++, static_cast<std::uint64_t>(format.rows - first)));
      std::vector<float> rows(static_cast<std::size_t>(count * format.cols));
      matrix.dequantize_rows(first, count, rows);
      ASSERT_TRUE(std::equal(rows.begin(), rows.end(), naive.begin() + first * format.cols));
    }
    Strip strip, expected;  // decode_strip gives back what was packed
    matrix.decode_strip(0, 0, strip);
    if (widths[0] > 0) random_codes(format, trial)(0, 0, widths[0], expected);
    ASSERT_EQ(strip.codes[0][0], expected.codes[0][0]);
    ASSERT_EQ(strip.scale_codes[0][0], expected.scale_codes[0][0]);
    ASSERT_EQ(strip.zero_codes[0][0], expected.zero_codes[0][0]);
  }
  EXPECT_GE(shapes.size(), 16u);  // of 4 x (2 + 3)
}

TEST(PackedMatrix, BlockBytesAddUpExceptForThePaddingOfStripes) {
  const CounterRng rng(4);
  std::uint64_t draw = 0;
  for (int trial = 0; trial < 200; ++trial) {
    const MatrixFormat format = random_format(rng, draw);
    const auto widths = random_widths(format, rng, draw);
    std::uint64_t sum = format.tag_bytes();
    std::int64_t weights = 0;
    for (std::int64_t row = 0; row < format.block_row_count(); ++row)
      for (std::int64_t col = 0; col < format.block_col_count(); ++col) {
        const BlockBytes block =
            block_bytes(format, row, col, widths[static_cast<std::size_t>(format.block_index(row, col))]);
        sum += block.codes + block.side;
        weights += format.block_weights(row, col);
      }
    const std::uint64_t total = packed_bytes(format, widths);
    ASSERT_LE(sum, total);
    ASSERT_LT(total - sum, 64u * static_cast<std::uint64_t>(format.stripe_count()));
    ASSERT_EQ(MatrixLayout(format, widths, "test").bytes(), total);
    ASSERT_EQ(weights, format.rows * format.cols);
  }
}

TEST(PackedMatrix, WhatLiesBeyondTheMatrixDoesNotReachTheFile) {
  MatrixFormat format{.rows = 5, .cols = 70, .group_cols = 32};
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()), 8);
  const auto fill = [&](std::uint8_t beyond) {
    std::vector<std::byte> blob(packed_bytes(format, widths));
    pack_matrix(
        format, widths,
        [&](std::int64_t, std::int64_t block_col, int, Strip& strip) {
          for (std::size_t r = 0; r < 16; ++r)
            for (std::size_t c = 0; c < 128; ++c)
              strip.codes[r][c] = r < 5 && static_cast<std::size_t>(block_col) * 64 + c < 70 && c < 64 ? 77 : beyond;
          for (std::size_t g = 0; g < 4; ++g)
            for (std::size_t r = 0; r < 16; ++r)
              strip.scale_codes[g][r] = strip.zero_codes[g][r] = r < 5 && g < (block_col == 0 ? 2 : 1) ? 9 : beyond;
        },
        blob);
    return blob;
  };
  EXPECT_EQ(fill(0), fill(255));
}

TEST(PackedMatrix, ACodeTooLargeForItsWidthIsABug) {
  const MatrixFormat format{.rows = 16, .cols = 64};
  std::vector<std::byte> blob(packed_bytes(format, std::vector<std::uint8_t>{3}));
  const auto source = [](std::int64_t, std::int64_t, int, Strip& strip) { strip.codes[3][5] = 8; };
  EXPECT_THROW(pack_matrix(format, std::vector<std::uint8_t>{3}, source, blob), InternalError);
}

TEST(PackedMatrix, BrokenBlobsAreRefused) {
  const MatrixFormat format{.rows = 130, .cols = 190, .block_rows = 32};
  const CounterRng rng(5);
  std::uint64_t draw = 0;
  const auto widths = random_widths(format, rng, draw);
  const auto blob = pack(format, widths, 1);
  EXPECT_NO_THROW(PackedMatrix(format, blob, "test"));
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{63}, blob.size() - 64, blob.size() - 1})
    EXPECT_THROW(PackedMatrix(format, std::span(blob).first(size), "test"), Error) << size;
  auto longer = blob;
  longer.resize(blob.size() + 64);
  EXPECT_THROW(PackedMatrix(format, longer, "test"), Error);
  // A tag tells the size of the rest.
  for (std::size_t tag = 0; tag < static_cast<std::size_t>(format.block_count()); ++tag)
    for (int bit = 0; bit < 4; ++bit) {
      auto flipped = blob;
      flipped[tag / 2] ^= static_cast<std::byte>(1 << (bit + static_cast<int>(tag % 2) * 4));
      EXPECT_THROW(PackedMatrix(format, flipped, "test"), Error);
    }
  for (std::size_t i = format.tag_bytes(); i < blob.size(); i += 97) {  // elsewhere any bytes are some matrix
    auto noise = blob;
    noise[i] = static_cast<std::byte>(rng.bits(draw++));
    const PackedMatrix matrix(format, noise, "test");
    for (const float value : matrix.dequantize()) ASSERT_TRUE(std::isfinite(value));
  }
}

TEST(MatrixFormat, SurvivesJsonAndRefusesNonsense) {
  const MatrixFormat format{.rows = 49153,
                            .cols = 576,
                            .block_rows = 128,
                            .block_cols = 128,
                            .group_cols = 128,
                            .side = {6, 5, 0.0123456f, 0.17f, 0.3f}};
  EXPECT_EQ(matrix_format_from_json(to_json(format), "test"), format);
  const std::pair<const char*, Json> lies[] = {{"rows", 0},
                                               {"rows", std::int64_t{1} << 40},
                                               {"cols", -1},
                                               {"cols", "many"},
                                               {"block", {48, 64}},
                                               {"block", {64, 32}},
                                               {"block", 64},
                                               {"block", {4294967360, 64}},
                                               {"group", 100.5},
                                               {"group", 48},
                                               {"group", nullptr},
                                               {"side", {3, 8, 1, 0.1, 0.5}},
                                               {"side", {8, 9, 1, 0.1, 0.5}},
                                               {"side", {8, 8, -1, 0.1, 0.5}},
                                               {"side", {8, 8, 1, 1.0, 0.5}},  // 2^255 overflows
                                               {"side", {8, 8, 1e300, 0.1, 0.5}},
                                               {"side", {8, 8, 1, 0.1, -1}},
                                               {"side", {4294967304, 8, 1, 0.1, 0.5}},
                                               {"side", {18446744073709551624.0, 8, 1, 0.1, 0.5}},
                                               {"side", Json::object()}};
  for (const auto& [key, value] : lies) {
    Json json = to_json(format);
    json[key] = value;
    EXPECT_THROW(matrix_format_from_json(json, "test"), Error) << key << " " << value.dump();
  }
}

}  // namespace
}  // namespace scalebits
