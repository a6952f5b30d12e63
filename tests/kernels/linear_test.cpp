// The contract of LinearRunner: several matrices that read the same inputs, packed in any order of channels or dense,
// give what their kernels give alone, each row where its order says, on any number of threads.
#include "random_packed.h"

#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <bit>
#include <deque>

namespace scalebits {
namespace {

constexpr float kUntouched = -5;

/// The product by the scalar kernels, in the original order of rows.
std::vector<float> wanted(const Linear& linear, ActivationFormat format, const std::vector<float>& x, std::int64_t n) {
  const std::int64_t rows = linear.rows(), cols = linear.cols();
  std::vector<float> y(static_cast<std::size_t>(n * rows));
  const KernelChoice scalar(Isa::scalar);
  const auto* packed = std::get_if<PackedWeights>(&linear.weights);
  if (packed == nullptr) {
    scalar.dense->run({&std::get<DenseWeights>(linear.weights), x.data(), n, cols, 0, rows, y.data(), rows});
    return y;
  }
  Activations gathered;
  gathered.resize(format, n, cols, packed->activation_group());
  scalar.gather(format).run({x.data(), cols, cols, packed->input_order(), 0, n * gathered.groups(), &gathered});
  scalar.packed(format, n).run({packed, &gathered, 0, packed->format().tile_row_count(), y.data(), rows});
  if (packed->row_order().empty()) return y;
  std::vector<float> ordered(y.size());
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t r = 0; r < rows; ++r)
      ordered[static_cast<std::size_t>(i * rows + packed->row_order()[static_cast<std::size_t>(r)])] =
          y[static_cast<std::size_t>(i * rows + r)];
  return ordered;
}

void check(Dice& dice, ActivationFormat format, std::int64_t n, std::int64_t largest) {
  const std::int64_t cols = 1 + dice.below(200);
  std::deque<RandomPacked> packed;
  std::deque<std::vector<float>> dense;
  std::deque<Linear> linears;
  for (std::int64_t count = 1 + dice.below(4); count > 0; --count) {
    const std::int64_t rows = 1 + dice.below(largest);
    if (dice.below(4) == 0) {
      std::vector<float>& values = dense.emplace_back(static_cast<std::size_t>(rows * cols));
      for (float& value : values) value = dice.real();
      linears.push_back({"dense", DenseWeights{DType::f32, rows, cols, std::as_bytes(std::span(values))}});
    } else {
      const MatrixFormat shape = random_packed_format(dice, rows, cols);
      packed.push_back(random_packed(dice, shape, random_block_widths(dice, shape)));
      linears.push_back({"packed", *packed.back().weights});
    }
  }
  std::vector<float> x(static_cast<std::size_t>(n * cols));
  for (float& value : x) value = dice.real();
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    LinearRunner runner(pool, highest_isa(), format);
    std::vector<std::vector<float>> results;
    std::vector<LinearOutput> outputs;
    results.reserve(linears.size());
    for (const Linear& linear : linears) {
      const std::int64_t y_stride = linear.rows() + 3;
      results.emplace_back(static_cast<std::size_t>(n * y_stride), kUntouched);
      outputs.push_back({&linear, results.back().data(), y_stride});
    }
    runner.run(outputs, x.data(), n, cols);
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      const std::vector<float> want = wanted(linears[o], format, x, n);
      const std::int64_t rows = linears[o].rows();
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t r = 0; r < outputs[o].y_stride; ++r) {
          const float found = results[o][static_cast<std::size_t>(i * outputs[o].y_stride + r)];
          const float right = r < rows ? want[static_cast<std::size_t>(i * rows + r)] : kUntouched;
          ASSERT_EQ(std::bit_cast<std::uint32_t>(right), std::bit_cast<std::uint32_t>(found))
              << linears[o].name << ' ' << rows << 'x' << cols << ", " << threads << " threads, row " << i << ", " << r;
        }
    }
  }
}

TEST(LinearRunner, GivesEachMatrixItsOwnProduct) {
  for (const ActivationFormat format : {ActivationFormat::i8, ActivationFormat::f32}) {
    Dice dice(81);
    for (int trial = 0; trial < 60; ++trial) check(dice, format, 1 + dice.below(7), 300);
    for (int trial = 0; trial < 4; ++trial) check(dice, format, 20, 900);  // scattered by all threads
  }
}

TEST(LinearRunner, ReadsSingleRowsInTheirOriginalOrder) {
  Dice dice(82);
  for (int trial = 0; trial < 30; ++trial) {
    const MatrixFormat shape = random_packed_format(dice, 1 + dice.below(90), 1 + dice.below(150));
    const RandomPacked packed = random_packed(dice, shape, random_block_widths(dice, shape));
    const Linear linear{"packed", *packed.weights};
    const std::vector<float> stored = packed.weights->matrix().dequantize();
    std::vector<float> row(static_cast<std::size_t>(shape.cols));
    const std::int64_t r = dice.below(shape.rows);
    linear.row(packed.row_order.empty() ? r : packed.row_order[static_cast<std::size_t>(r)], row);
    for (std::int64_t c = 0; c < shape.cols; ++c)
      ASSERT_EQ(row[packed.input_order.empty() ? static_cast<std::size_t>(c)
                                               : packed.input_order[static_cast<std::size_t>(c)]],
                stored[static_cast<std::size_t>(r * shape.cols + c)]);
  }
}

}  // namespace
}  // namespace scalebits
