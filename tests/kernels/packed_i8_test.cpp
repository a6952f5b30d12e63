// The contract of 8-bit products: every kernel on every instruction set of this machine gives the scalar kernel's bits,
// for every shape, width and number of rows, and the scalar kernel computes what the format says of the rounded
// activations.
#include "random_packed.h"

#include "kernels/kernel.h"
#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace scalebits {

// packed_i8_amx_emulated.cpp, packed_i8_avx_vnni_evex.cpp
void run_packed_i8_amx_emulated(const PackedTask& task);
void run_packed_i8_avx_vnni_evex(const PackedTask& task);
void run_packed_i8_avx_vnni_panels_evex(const PackedTask& task);

namespace {

std::vector<float> random_inputs(Dice& dice, std::int64_t count) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& value : x) value = dice.real() * (dice.below(50) == 0 ? 20.0f : 1.0f);
  return x;
}

Activations gather(const GatherKernel& kernel, const PackedWeights& weights, const std::vector<float>& x,
                   std::int64_t n) {
  Activations out;
  const std::int64_t cols = weights.format().cols;
  out.resize(kernel.format, n, cols, weights.activation_group());
  kernel.run({x.data(), cols, cols, weights.input_order(), 0, n * out.groups(), &out});
  return out;
}

const GatherKernel& scalar_gather(ActivationFormat format) {
  for (const GatherKernel& kernel : gather_kernels())
    if (kernel.format == format && kernel.isa == Isa::scalar) return kernel;
  throw InternalError("no scalar gather");
}

std::vector<float> product(const PackedKernel& kernel, const PackedWeights& weights, const Activations& x,
                           std::int64_t first = 0, std::int64_t last = -1) {
  std::vector<float> y(static_cast<std::size_t>(x.rows * weights.format().rows), -7.0f);
  kernel.run(
      {&weights, &x, first, last < 0 ? weights.format().tile_row_count() : last, y.data(), weights.format().rows});
  return y;
}

void expect_same_bits(const std::vector<float>& wanted, const std::vector<float>& found, const std::string& what) {
  ASSERT_EQ(wanted.size(), found.size());
  for (std::size_t i = 0; i < wanted.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint32_t>(wanted[i]), std::bit_cast<std::uint32_t>(found[i]))
        << what << ": element " << i << ", " << wanted[i] << " and " << found[i];
}

/// The kernels of this machine but the scalar one.
std::vector<PackedKernel> fast_kernels() {
  std::vector<PackedKernel> result;
  for (const PackedKernel& kernel : packed_kernels())
    if (kernel.format == ActivationFormat::i8 && kernel.isa != Isa::scalar && machine_has(kernel.isa))
      result.push_back(kernel);
  if (machine_has(Isa::avx512_vnni)) {
    result.push_back({"packed i8 avx-vnni, encoded for AVX-512", ActivationFormat::i8, Isa::avx512_vnni, 1,
                      run_packed_i8_avx_vnni_evex});
    result.push_back({"packed i8 avx-vnni panels, encoded for AVX-512", ActivationFormat::i8, Isa::avx512_vnni, 1,
                      run_packed_i8_avx_vnni_panels_evex});
    result.push_back(
        {"packed i8 amx, tiles in memory", ActivationFormat::i8, Isa::avx512_vnni, 1, run_packed_i8_amx_emulated});
  }
  return result;
}

const PackedKernel& scalar_kernel() {
  for (const PackedKernel& kernel : packed_kernels())
    if (kernel.format == ActivationFormat::i8 && kernel.isa == Isa::scalar) return kernel;
  throw InternalError("no scalar kernel");
}

void check_all(Dice& dice, const MatrixFormat& format, const std::vector<std::uint8_t>& widths, std::int64_t n,
               Codes codes = Codes::random) {
  const RandomPacked packed = random_packed(dice, format, widths, codes);
  const std::vector<float> inputs = random_inputs(dice, n * format.cols);
  const Activations x = gather(scalar_gather(ActivationFormat::i8), *packed.weights, inputs, n);
  const std::vector<float> wanted = product(scalar_kernel(), *packed.weights, x);
  const std::string what =
      fmt::format("{}x{}, blocks {}x{}, groups {}, side {}/{}, {} rows", format.rows, format.cols, format.block_rows,
                  format.block_cols, format.group_cols, format.side.scale_bits, format.side.zero_bits, n);
  for (const PackedKernel& kernel : fast_kernels())
    expect_same_bits(wanted, product(kernel, *packed.weights, x), fmt::format("{}, {}", kernel.name, what));
}

TEST(PackedI8, ScalarComputesWhatTheFormatSays) {
  Dice dice(1);
  for (int trial = 0; trial < 30; ++trial) {
    const MatrixFormat format = random_packed_format(dice, 1 + dice.below(100), 1 + dice.below(300));
    const RandomPacked packed = random_packed(dice, format, random_block_widths(dice, format));
    const std::int64_t n = 1 + dice.below(3);
    const Activations x =
        gather(scalar_gather(ActivationFormat::i8), *packed.weights, random_inputs(dice, n * format.cols), n);
    const std::vector<float> y = product(scalar_kernel(), *packed.weights, x),
                             weights = packed.weights->matrix().dequantize();
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t row = 0; row < format.rows; ++row) {
        double sum = 0, size = 0;
        for (std::int64_t col = 0; col < format.cols; ++col) {
          const double value = static_cast<double>(x.i8[static_cast<std::size_t>(i * x.cols + col)]) *
                               x.scales[static_cast<std::size_t>(i * x.groups() + col / x.group) * 2];
          const auto at = static_cast<std::size_t>(row * format.cols + col);
          sum += weights[at] * value;
          // The zero point's product is summed apart from the code's: both count for the rounding error.
          size += std::fabs(value) * (std::fabs(weights[at]) + 512.0 * 0.01);
        }
        const double groups = static_cast<double>(x.groups()) + 4;
        ASSERT_NEAR(y[static_cast<std::size_t>(i * format.rows + row)], sum, groups * size * 0x1p-23 + 1e-30);
      }
  }
}

TEST(PackedI8, EveryKernelGivesTheScalarBits) {
  Dice dice(2);
  for (int trial = 0; trial < 150; ++trial) {
    const MatrixFormat format = random_packed_format(dice, 1 + dice.below(200), 1 + dice.below(400));
    check_all(dice, format, random_block_widths(dice, format), 1 + dice.below(20));
  }
}

TEST(PackedI8, EveryWidthAndNumberOfRows) {
  Dice dice(3);
  for (int width = 1; width <= 8; ++width)
    for (std::int64_t n = 1; n <= 34; n += n < 18 ? 1 : 8)
      for (const Codes codes : {Codes::random, Codes::largest, Codes::zero}) {
        const MatrixFormat format = random_packed_format(dice, 70, 130);
        check_all(
            dice, format,
            std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count()), static_cast<std::uint8_t>(width)),
            n, codes);
      }
}

TEST(PackedI8, ManyRowsInSeveralPanels) {
  Dice dice(11);
  for (const std::int64_t n : {90, 95, 96, 97, 101, 192, 193, 259})
    for (int trial = 0; trial < 4; ++trial) {
      const MatrixFormat format = random_packed_format(dice, 1 + dice.below(150), 1 + dice.below(200));
      check_all(dice, format, random_block_widths(dice, format), n);
    }
}

TEST(PackedI8, ShapesThatDivideNothing) {
  Dice dice(4);
  for (const auto& [rows, cols] : {std::pair{576, 576}, {1, 1}, {5, 576}, {2049, 5}, {1, 4097}, {17, 65}}) {
    const MatrixFormat format = random_packed_format(dice, rows, cols);
    check_all(dice, format, random_block_widths(dice, format), 1);
    check_all(dice, format, random_block_widths(dice, format), 18);
  }
}

/// One row of activations, whole stripes, groups of 64: what decoding does most (packed_i8_walk.h).
TEST(PackedI8, StripesOfOneRowInEveryWalkableFormat) {
  Dice dice(9);
  for (int scale_bits = 4; scale_bits <= 8; ++scale_bits)
    for (int zero_bits = 0; zero_bits <= 4; ++zero_bits)
      for (const int block_rows : {16, 32, 64}) {
        MatrixFormat format{.rows = 1 + dice.below(400), .cols = 1 + dice.below(500), .block_rows = block_rows};
        format.block_cols = format.group_cols = 64;
        format.side = {.scale_bits = scale_bits,
                       .zero_bits = zero_bits,
                       .scale_base = 0.37f,
                       .scale_step_log2 = 0.125f,
                       .zero_range = 0.7f};
        ASSERT_TRUE(SideTable(format.side).octave_of_eight);
        check_all(dice, format, random_block_widths(dice, format), 1);
      }
}

TEST(PackedI8, LargestCodesAndActivationsDoNotOverflow) {
  Dice dice(5);
  for (int width = 1; width <= 8; ++width)
    for (const float sign : {1.0f, -1.0f}) {
      MatrixFormat format = random_packed_format(dice, 33, 256);
      const RandomPacked packed = random_packed(
          dice, format,
          std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count()), static_cast<std::uint8_t>(width)),
          Codes::largest);
      for (const std::int64_t n : {1, 2, 3, 4, 8, 16, 19}) {
        const std::vector<float> inputs(static_cast<std::size_t>(n * format.cols), sign);
        const Activations x = gather(scalar_gather(ActivationFormat::i8), *packed.weights, inputs, n);
        ASSERT_EQ(x.i8[0], sign > 0 ? 127 : -127);
        const std::vector<float> wanted = product(scalar_kernel(), *packed.weights, x);
        for (const PackedKernel& kernel : fast_kernels())
          expect_same_bits(wanted, product(kernel, *packed.weights, x), std::string(kernel.name));
      }
    }
}

TEST(PackedI8, PartsOfTheRowsMakeTheWhole) {
  Dice dice(6);
  for (int trial = 0; trial < 40; ++trial) {
    MatrixFormat format = random_packed_format(dice, 100 + dice.below(300), 1 + dice.below(200));
    if (trial % 2 == 0) {
      format.block_rows = 16, format.block_cols = format.group_cols = 64;
      format.side.zero_bits = 4, format.side.scale_step_log2 = 0.125f;
    }
    const RandomPacked packed = random_packed(dice, format, random_block_widths(dice, format));
    const std::int64_t n = dice.below(2) == 0 ? 1 : 17;
    const Activations x =
        gather(scalar_gather(ActivationFormat::i8), *packed.weights, random_inputs(dice, n * format.cols), n);
    const std::vector<float> wanted = product(scalar_kernel(), *packed.weights, x);
    for (const PackedKernel& kernel : fast_kernels()) {
      std::vector<float> y(wanted.size(), -7.0f);
      for (std::int64_t first = 0; first < format.tile_row_count();) {
        const std::int64_t last = std::min(format.tile_row_count(), first + 1 + dice.below(9));
        kernel.run({packed.weights.get(), &x, first, last, y.data(), format.rows});
        first = last;
      }
      expect_same_bits(wanted, y, std::string(kernel.name));
    }
  }
}

TEST(Gather, EveryKernelGivesTheScalarBits) {
  Dice dice(7);
  for (int trial = 0; trial < 100; ++trial) {
    const MatrixFormat format = random_packed_format(dice, 16, 1 + dice.below(300));
    const RandomPacked packed = random_packed(dice, format, random_block_widths(dice, format));
    const std::int64_t n = 1 + dice.below(5);
    std::vector<float> inputs = random_inputs(dice, n * format.cols);
    if (trial % 10 == 0) std::fill(inputs.begin(), inputs.end(), 0.0f);
    // So small that 127 over it has no finite value, and around where that begins.
    if (trial % 10 == 1)
      for (float& value : inputs) value = std::ldexp(value, -110 - static_cast<int>(dice.below(30)));
    const Activations wanted = gather(scalar_gather(ActivationFormat::i8), *packed.weights, inputs, n);
    for (const GatherKernel& kernel : gather_kernels()) {
      if (kernel.format != ActivationFormat::i8 || !machine_has(kernel.isa)) continue;
      const Activations found = gather(kernel, *packed.weights, inputs, n);
      for (std::int64_t i = 0; i < n * found.cols; ++i)
        ASSERT_EQ(wanted.i8[static_cast<std::size_t>(i)], found.i8[static_cast<std::size_t>(i)]) << kernel.name;
      for (std::int64_t i = 0; i < n * found.groups() * 2; ++i)
        ASSERT_EQ(wanted.scales[static_cast<std::size_t>(i)], found.scales[static_cast<std::size_t>(i)]);
    }
  }
}

TEST(Gather, AnInputThatIsNotFiniteShowsInEveryKernelsResults) {
  Dice dice(8);
  const MatrixFormat format = random_packed_format(dice, 40, 200);
  const RandomPacked packed =
      random_packed(dice, format, std::vector<std::uint8_t>(static_cast<std::size_t>(format.block_count()), 3));
  const std::int64_t n = 5, cols = format.cols, rows = format.rows;
  const std::vector<float> finite = random_inputs(dice, n * cols);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::vector<float> inputs = finite;
    inputs[static_cast<std::size_t>(2 * cols + 77)] = bad;
    for (const GatherKernel& gather_kernel : gather_kernels()) {
      if (gather_kernel.format != ActivationFormat::i8 || !machine_has(gather_kernel.isa)) continue;
      const Activations x = gather(gather_kernel, *packed.weights, inputs, n);
      const Activations wanted = gather(gather_kernel, *packed.weights, finite, n);
      for (const PackedKernel& kernel : packed_kernels()) {
        if (kernel.format != ActivationFormat::i8 || !machine_has(kernel.isa)) continue;
        const std::vector<float> y = product(kernel, *packed.weights, x),
                                 good = product(kernel, *packed.weights, wanted);
        for (std::int64_t i = 0; i < n * rows; ++i) {
          const auto at = static_cast<std::size_t>(i);
          if (i / rows == 2)
            ASSERT_TRUE(std::isnan(y[at])) << kernel.name;
          else
            ASSERT_EQ(y[at], good[at]) << kernel.name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace scalebits
