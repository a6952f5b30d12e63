// The contract of exact packed products: every kernel of this machine gives the bits of the rule in kernel.h, for every
// width, shape, group and block, any number of rows of x and any share of the tile rows, whatever lies beyond the
// matrix; and those bits are the product with the dequantised matrix up to roundings.
#include "random_packed.h"

#include "kernels/cpu/packed_f32.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace scalebits {
namespace {

struct ExactKernel {
  std::string_view name;
  Isa isa;
  void (*run)(const PackedTask&);
};

/// Those of this machine.
std::vector<ExactKernel> own_kernels() {
  std::vector<ExactKernel> result;
  for (const ExactKernel& kernel :
       {ExactKernel{"scalar", Isa::scalar, run_packed_f32_scalar}, ExactKernel{"avx2", Isa::avx2, run_packed_f32_avx2},
        ExactKernel{"avx512", Isa::avx512_vnni, run_packed_f32_avx512}})
    if (machine_has(kernel.isa)) result.push_back(kernel);
  return result;
}

/// In stored order, zeros behind.
Activations random_activations(Dice& dice, const PackedWeights& weights, std::int64_t n) {
  const std::int64_t cols = weights.format().cols;
  Activations x;
  x.format = ActivationFormat::f32;
  x.rows = n;
  x.cols = divide_up(cols, kTileCols) * kTileCols;
  x.group = weights.activation_group();
  x.f32.reserve(static_cast<std::size_t>(n * x.cols));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t k = 0; k < x.cols; ++k)
      x.f32[static_cast<std::size_t>(i * x.cols + k)] = k < cols ? dice.real() : 0;
  return x;
}

/// [n, rows] in stored order of rows: the rule, by its words.
std::vector<float> specified(const PackedWeights& weights, const Activations& x) {
  const MatrixFormat& format = weights.format();
  std::vector<float> y(static_cast<std::size_t>(x.rows * format.rows));
  Strip strip;
  for (std::int64_t tile_row = 0; tile_row < format.tile_row_count(); ++tile_row)
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
      const StripLocation at = weights.matrix().layout().strip(tile_row, block_col);
      if (at.width == 0) continue;
      weights.matrix().decode_strip(tile_row, block_col, strip);
      for (std::int64_t i = 0; i < x.rows; ++i)
        for (std::int64_t row = 0; row < std::min<std::int64_t>(16, format.rows - tile_row * 16); ++row) {
          const auto r = static_cast<std::size_t>(row);
          float& sum = y[static_cast<std::size_t>(i * format.rows + tile_row * 16 + row)];
          for (int first = 0; first < at.tiles * kTileCols; first += weights.activation_group()) {
            const auto group = static_cast<std::size_t>(first / format.group_cols);
            const float zero = weights.side().zero(strip.zero_codes[group][r], at.width);
            float t = 0;
            for (int k = first; k < first + weights.activation_group(); ++k) {
              const std::int64_t col = block_col * format.block_cols + k;
              t = std::fma(float(strip.codes[r][static_cast<std::size_t>(k)]) - zero,
                           x.f32[static_cast<std::size_t>(i * x.cols + col)], t);
            }
            sum = std::fma(t, weights.side().scale(strip.scale_codes[group][r], at.width), sum);
          }
        }
    }
  return y;
}

constexpr float kUntouched = -77;

void check(Dice& dice, const MatrixFormat& format, const std::vector<std::uint8_t>& widths, std::int64_t n,
           Codes codes = Codes::random) {
  static const std::vector<ExactKernel> kernels = own_kernels();
  const RandomPacked packed = random_packed(dice, format, widths, codes);
  const PackedWeights& weights = *packed.weights;
  const Activations x = random_activations(dice, weights, n);
  const std::vector<float> wanted = specified(weights, x);
  const std::int64_t first = dice.below(3) == 0 ? dice.below(format.tile_row_count()) : 0;
  const std::int64_t last =
      first + (dice.below(3) == 0 ? dice.below(format.tile_row_count() - first + 1) : format.tile_row_count() - first);
  const std::int64_t y_stride = format.rows + dice.below(4);
  for (const ExactKernel& kernel : kernels) {
    std::vector<float> y(static_cast<std::size_t>(n * y_stride), kUntouched);
    kernel.run({&weights, &x, first, last, y.data(), y_stride});
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t stored = 0; stored < format.rows; ++stored) {
        const float found = y[static_cast<std::size_t>(i * y_stride + stored)];
        const float want = stored >= 16 * first && stored < 16 * last
                               ? wanted[static_cast<std::size_t>(i * format.rows + stored)]
                               : kUntouched;
        ASSERT_EQ(std::bit_cast<std::uint32_t>(want), std::bit_cast<std::uint32_t>(found))
            << kernel.name << ", " << format.rows << 'x' << format.cols << ", blocks " << format.block_rows << 'x'
            << format.block_cols << ", groups " << format.group_cols << ", " << n << " rows of x: [" << i << ", "
            << stored << "]: wanted " << want << ", found " << found;
      }
      for (std::int64_t row = format.rows; row < y_stride; ++row)
        ASSERT_EQ(y[static_cast<std::size_t>(i * y_stride + row)], kUntouched) << kernel.name;
    }
  }
}

TEST(PackedF32, EveryWidthAndEveryNumberOfRows) {
  Dice dice(51);
  for (int width = 0; width <= kMaxWidth; ++width)
    for (std::int64_t n = 1; n <= 17; ++n) {
      const MatrixFormat format = random_packed_format(dice, 40, 200);
      check(dice, format,
            std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count()), std::uint8_t(width)), n);
    }
}

TEST(PackedF32, AnyShapeAndMixOfWidths) {
  Dice dice(52);
  for (int repeat = 0; repeat < 150; ++repeat) {
    const MatrixFormat format = random_packed_format(dice, 1 + dice.below(300), 1 + dice.below(300));
    check(dice, format, random_block_widths(dice, format), 1 + dice.below(17));
  }
}

TEST(PackedF32, OddShapesAndExtremeCodes) {
  Dice dice(53);
  for (const std::int64_t rows : {1, 5, 16, 17, 576})
    for (const std::int64_t cols : {1, 5, 63, 64, 65, 576})
      for (const Codes codes : {Codes::largest, Codes::zero}) {
        const MatrixFormat format = random_packed_format(dice, rows, cols);
        check(dice, format, random_block_widths(dice, format), 3, codes);
      }
}

TEST(PackedF32, ManyRowsAreCutIntoBlocksWithoutATrace) {
  Dice dice(54);
  for (const std::int64_t n : {100, 225, 300}) {
    const MatrixFormat format = random_packed_format(dice, 33, 130);
    check(dice, format, random_block_widths(dice, format), n);
  }
}

TEST(PackedF32, TheRuleIsTheProductWithTheDequantisedMatrixUpToRoundings) {
  Dice dice(55);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const MatrixFormat format = random_packed_format(dice, 1 + dice.below(60), 1 + dice.below(400));
    const RandomPacked packed = random_packed(dice, format, random_block_widths(dice, format));
    const Activations x = random_activations(dice, *packed.weights, 2);
    const std::vector<float> y = specified(*packed.weights, x), w = packed.weights->matrix().dequantize();
    const double group = packed.weights->activation_group();
    for (std::int64_t i = 0; i < 2; ++i)
      for (std::int64_t row = 0; row < format.rows; ++row) {
        double exact = 0, magnitude = 0;
        for (std::int64_t k = 0; k < format.cols; ++k) {
          const double term = double(w[static_cast<std::size_t>(row * format.cols + k)]) *
                              double(x.f32[static_cast<std::size_t>(i * x.cols + k)]);
          exact += term;
          magnitude += std::abs(term);
        }
        // The rule rounds once for each input of a group and once for each group; a dequantised weight is rounded once.
        const double roundings = group + double(x.cols) / group + 1;
        ASSERT_NEAR(y[static_cast<std::size_t>(i * format.rows + row)], exact, 1.01 * roundings * 0x1p-24 * magnitude);
      }
  }
}

}  // namespace
}  // namespace scalebits
