// The contract of dense products: every kernel of this machine gives the bits of the rule in kernel.h (sixteen partial
// sums, one fma each, a fixed tree), for every type of W, any shape, any number of rows of x and any share of the rows
// of W; and those bits are the product up to the roundings of that rule.
#include "random_packed.h"

#include "kernels/kernel.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

namespace scalebits {
namespace {

struct DenseProblem {
  DenseWeights weights;
  std::vector<std::byte> bytes;  // W, an odd number of elements behind the start
  std::vector<float> w, x;
  std::int64_t n, x_stride;
};

DenseProblem random_problem(Dice& dice, DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t n) {
  DenseProblem problem{.n = n, .x_stride = cols + dice.below(5)};
  const std::size_t size = size_bytes(dtype), offset = size * static_cast<std::size_t>(1 + 2 * dice.below(4));
  problem.bytes.resize(offset + static_cast<std::size_t>(rows * cols) * size);
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    float value = dice.real() * (dice.below(20) == 0 ? 0x1p-16f : 1);  // some subnormal in f16
    std::byte* to = problem.bytes.data() + offset + static_cast<std::size_t>(i) * size;
    if (dtype == DType::f32) {
      std::memcpy(to, &value, 4);
    } else {
      const std::uint16_t bits = dtype == DType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
      std::memcpy(to, &bits, 2);
      value = dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    problem.w.push_back(value);
  }
  // NaN beyond the inputs of a row: they must not be used.
  problem.x.assign(static_cast<std::size_t>(n * problem.x_stride), std::nanf(""));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t k = 0; k < cols; ++k) problem.x[static_cast<std::size_t>(i * problem.x_stride + k)] = dice.real();
  problem.weights = {dtype, rows, cols, std::span(problem.bytes).subspan(offset)};
  return problem;
}

/// The rule, by its words.
float specified(const float* w, const float* x, std::int64_t cols) {
  float partial[16] = {};
  for (std::int64_t k = 0; k < (cols + 15) / 16 * 16; ++k)
    partial[k % 16] = std::fma(k < cols ? w[k] : 0, k < cols ? x[k] : 0, partial[k % 16]);
  for (int half = 8; half > 0; half /= 2)
    for (int k = 0; k < half; ++k) partial[k] += partial[k + half];
  return partial[0];
}

constexpr float kUntouched = -77;

std::vector<float> product(const DenseKernel& kernel, const DenseProblem& problem, std::int64_t first,
                           std::int64_t last) {
  const std::int64_t y_stride = problem.weights.rows + 3;
  std::vector<float> y(static_cast<std::size_t>(problem.n * y_stride), kUntouched);
  kernel.run({&problem.weights, problem.x.data(), problem.n, problem.x_stride, first, last, y.data(), y_stride});
  return y;
}

/// The kernels of this machine.
std::vector<DenseKernel> own_kernels() {
  std::vector<DenseKernel> result;
  for (const DenseKernel& kernel : dense_kernels())
    if (machine_has(kernel.isa)) result.push_back(kernel);
  return result;
}

void check_rows(const DenseProblem& problem, std::int64_t first, std::int64_t last) {
  static const std::vector<DenseKernel> kernels = own_kernels();
  const DenseWeights& weights = problem.weights;
  for (const DenseKernel& kernel : kernels) {
    const std::vector<float> y = product(kernel, problem, first, last);
    for (std::size_t at = 0; at < y.size(); ++at) {
      const auto i = static_cast<std::int64_t>(at) / (weights.rows + 3);
      const auto r = static_cast<std::int64_t>(at) % (weights.rows + 3);
      const float wanted = r >= first && r < last ? specified(problem.w.data() + r * weights.cols,
                                                              problem.x.data() + i * problem.x_stride, weights.cols)
                                                  : kUntouched;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wanted), std::bit_cast<std::uint32_t>(y[at]))
          << kernel.name << ", " << name_of(weights.dtype) << ' ' << weights.rows << 'x' << weights.cols << ", rows "
          << first << " to " << last << ", " << problem.n << " rows of x: [" << i << ", " << r << "]: wanted " << wanted
          << ", found " << y[at];
    }
  }
}

TEST(Dense, EveryKernelFollowsTheRuleForAllShapesAndTypes) {
  Dice dice(41);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
    for (const std::int64_t cols : {1, 5, 15, 16, 17, 64, 100, 576})
      for (const std::int64_t rows : {1, 2, 3, 4, 5, 11, 37})
        for (const std::int64_t n : {1, 2, 3, 7}) check_rows(random_problem(dice, dtype, rows, cols, n), 0, rows);
}

TEST(Dense, EveryNumberOfRowsOfX) {
  Dice dice(42);
  for (std::int64_t n = 0; n <= 20; ++n)
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16})
      check_rows(random_problem(dice, dtype, 7, 49, n), 0, 7);
  check_rows(random_problem(dice, DType::f16, 70, 130, 200), 0, 70);  // several panels of W and blocks of x
}

TEST(Dense, ManyInputsAreCutIntoPanelsWithoutATrace) {
  Dice dice(43);
  for (const std::int64_t cols : {1023, 1024, 1025, 2049, 3333})
    for (const std::int64_t n : {1, 9}) check_rows(random_problem(dice, DType::bf16, 35, cols, n), 0, 35);
}

TEST(Dense, AnyShareOfTheRows) {
  Dice dice(44);
  for (int repeat = 0; repeat < 40; ++repeat) {
    const std::int64_t rows = 1 + dice.below(90), first = dice.below(rows);
    const std::int64_t last = first + dice.below(rows - first + 1);
    const auto dtype = static_cast<DType>(dice.below(3));
    check_rows(random_problem(dice, dtype, rows, 1 + dice.below(200), 1 + dice.below(17)), first, last);
  }
}

TEST(Dense, TheRuleIsTheProductUpToItsRoundings) {
  Dice dice(45);
  for (const std::int64_t cols : {1, 30, 576, 5000}) {
    const DenseProblem problem = random_problem(dice, DType::bf16, 9, cols, 8);
    const std::vector<float> y = product(dense_kernels()[dense_kernels().size() - 1], problem, 0, 9);
    for (std::int64_t i = 0; i < problem.n; ++i)
      for (std::int64_t r = 0; r < 9; ++r) {
        double exact = 0, magnitude = 0;
        for (std::int64_t k = 0; k < cols; ++k) {
          const double term = double(problem.w[static_cast<std::size_t>(r * cols + k)]) *
                              double(problem.x[static_cast<std::size_t>(i * problem.x_stride + k)]);
          exact += term;
          magnitude += std::abs(term);
        }
        // One rounding for each fma of a partial sum and each level of the tree.
        const double roundings = double((cols + 15) / 16 + 4);
        ASSERT_NEAR(y[static_cast<std::size_t>(i * 12 + r)], exact, 1.01 * roundings * 0x1p-24 * magnitude);
      }
  }
}

}  // namespace
}  // namespace scalebits
