// rounding: codes chosen by the clip search beat every other code it may choose up to its search path, dequantising in
// the original order equals unpacking the packed blob, and orders move values without changing them.
#include "rounding/group_codes.h"
#include "rounding/rounded_matrix.h"

#include "core/random.h"
#include "format/packed_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace scalebits {
namespace {

constexpr SideFormat kSide{
    .scale_bits = 6, .zero_bits = 4, .scale_base = 0.05f, .scale_step_log2 = 0.125f, .zero_range = 0.25f};

double squared_error(const SideTable& side, int bits, GroupCode code, const std::vector<float>& weights,
                     const std::vector<float>& importance) {
  const double scale = side.scale(code.scale, bits), zero = side.zero(code.zero, bits);
  double error = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double level = std::clamp(std::nearbyint(weights[i] / scale + zero), 0.0, std::exp2(bits) - 1);
    const double difference = weights[i] - (level - zero) * scale;
    error += importance[i] * difference * difference;
  }
  return error;
}

std::vector<float> normal_values(std::size_t count, std::uint64_t seed, double mean = 0) {
  const CounterRng rng(seed);
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(mean + rng.normal(i));
  return values;
}

TEST(GroupCodes, AreNearlyTheBestOfAllCodes) {
  const SideTable side(kSide);
  for (int bits = 1; bits <= 8; ++bits) {
    double chosen_sum = 0, best_sum = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto weights = normal_values(64, seed, 0.2);
      std::vector<float> importance(64);
      for (std::size_t i = 0; i < 64; ++i) importance[i] = 0.5f + static_cast<float>(CounterRng(seed, 1).uniform(i));
      const GroupChoice choice = choose_group_code(side, bits, weights, importance);
      const double chosen = squared_error(side, bits, choice.code, weights, importance);
      ASSERT_NEAR(choice.error, chosen, 64 * 1e-5 * (1 + chosen)) << "the reported error is the error";
      double best = INFINITY;
      for (int scale = 0; scale < 64; ++scale)
        for (int zero = 0; zero < 16; ++zero)
          best = std::min(best,
                          squared_error(side, bits, {static_cast<std::uint8_t>(scale), static_cast<std::uint8_t>(zero)},
                                        weights, importance));
      ASSERT_GE(chosen, best * (1 - 1e-4));
      chosen_sum += chosen, best_sum += best;
    }
    // The search does not try all 1024 codes; it may lose a little, not more.
    EXPECT_LT(chosen_sum, 1.02 * best_sum) << bits << " bits";
  }
}

TEST(GroupCodes, HandleDegenerateGroups) {
  const SideTable side(kSide);
  const std::vector<float> ones(64, 1.0f);
  for (const float value : {0.0f, 1e-30f, 3.0f})
    for (int bits = 1; bits <= 8; ++bits) {
      const GroupChoice choice = choose_group_code(side, bits, std::vector<float>(64, value), ones);
      EXPECT_TRUE(std::isfinite(choice.error));
      EXPECT_LT(choice.code.scale, 64);
      EXPECT_LT(choice.code.zero, 16);
    }
}

struct Case {
  std::int64_t rows, cols;
  BlockShape blocks;
  std::int64_t group_cols;
  bool ordered;
};

class RoundedMatrixCases : public testing::TestWithParam<Case> {};

TEST_P(RoundedMatrixCases, PackedBlobHoldsWhatDequantizeSays) {
  const Case c = GetParam();
  MatrixPartition partition{"m", c.rows, c.cols, nullptr, nullptr};
  if (c.ordered) {
    const auto shuffled = [](std::int64_t count, std::uint64_t seed) {
      auto order = std::make_shared<ChannelOrder>();
      order->order.resize(static_cast<std::size_t>(count));
      std::iota(order->order.begin(), order->order.end(), 0u);
      const CounterRng rng(seed);
      for (std::size_t i = order->order.size(); i > 1; --i)
        std::swap(order->order[i - 1], order->order[rng.below(i, i)]);
      return order;
    };
    partition.row_order = shuffled(c.rows, 1);
    partition.col_order = shuffled(c.cols, 2);
  }
  const auto values = normal_values(static_cast<std::size_t>(c.rows * c.cols), 3);
  const RoundedMatrix matrix(HostTensor::from_f32({c.rows, c.cols}, values), partition, c.blocks,
                             {.group_cols = c.group_cols}, {});
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()));
  for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = static_cast<std::uint8_t>(CounterRng(4).below(i, 9));
  std::vector<float> rounded(values.size());
  matrix.dequantize(widths, rounded.data());
  std::vector<std::byte> blob(packed_bytes(matrix.format(), widths));
  matrix.pack(widths, blob);
  const std::vector<float> unpacked = PackedMatrix(matrix.format(), blob, "blob").dequantize();
  for (std::int64_t r = 0; r < c.rows; ++r)
    for (std::int64_t j = 0; j < c.cols; ++j) {
      const std::int64_t row = partition.row_order ? partition.row_order->order[static_cast<std::size_t>(r)] : r;
      const std::int64_t col = partition.col_order ? partition.col_order->order[static_cast<std::size_t>(j)] : j;
      ASSERT_EQ(unpacked[static_cast<std::size_t>(r * c.cols + j)],
                rounded[static_cast<std::size_t>(row * c.cols + col)]);
    }
}

TEST_P(RoundedMatrixCases, EightBitsAreWithinHalfAStep) {
  const Case c = GetParam();
  const auto values = normal_values(static_cast<std::size_t>(c.rows * c.cols), 3);
  const RoundedMatrix matrix(HostTensor::from_f32({c.rows, c.cols}, values), {"m", c.rows, c.cols, nullptr, nullptr},
                             c.blocks, {.group_cols = c.group_cols}, {});
  std::vector<float> rounded(values.size());
  matrix.dequantize(std::vector<std::uint8_t>(static_cast<std::size_t>(matrix.format().block_count()), 8),
                    rounded.data());
  // A group's range covers its values with the centre off zero by a quarter of it; one scale code more than needed
  // costs a factor 2^0.125, and a zero code rounds the centre by up to zero_range · 2^8 / 2^4 = 4 levels, which clips
  // as much.
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double step = covering_range(*low, *high, 4, 0.25f) * std::exp2(0.125) / 255;
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(rounded[i], values[i], 8 * step);
}

TEST_P(RoundedMatrixCases, HasItsFormatWithoutCodes) {
  const Case c = GetParam();
  const auto weight =
      HostTensor::from_f32({c.rows, c.cols}, normal_values(static_cast<std::size_t>(c.rows * c.cols), 3));
  const MatrixPartition partition{"m", c.rows, c.cols, nullptr, nullptr};
  const RoundedMatrix whole(weight, partition, c.blocks, {.group_cols = c.group_cols}, {});
  const RoundedMatrix bare(weight, partition, c.blocks, {.group_cols = c.group_cols, .code_widths = 0}, {});
  EXPECT_TRUE(whole.has_codes());
  EXPECT_FALSE(bare.has_codes());
  EXPECT_EQ(bare.format(), whole.format());
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(whole.format().block_count()), 3);
  std::vector<std::byte> blob(packed_bytes(whole.format(), widths));
  EXPECT_THROW(bare.pack(widths, blob), InternalError);
  const RoundedMatrix one(weight, partition, c.blocks, {.group_cols = c.group_cols, .code_widths = 1u << 3}, {});
  std::vector<std::byte> same(blob.size());
  whole.pack(widths, blob);
  one.pack(widths, same);
  EXPECT_EQ(same, blob);
  EXPECT_TRUE(one.codes(4).empty());
}

INSTANTIATE_TEST_SUITE_P(Shapes, RoundedMatrixCases,
                         testing::Values(Case{64, 128, {16, 64}, 64, false}, Case{64, 128, {64, 64}, 64, true},
                                         Case{5, 44, {16, 64}, 64, true}, Case{1, 1, {64, 64}, 32, true},
                                         Case{100, 172, {32, 128}, 128, true}, Case{48, 200, {128, 64}, 32, false}));

}  // namespace
}  // namespace scalebits
