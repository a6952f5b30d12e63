// refine: rounding with feedback takes the codes that solving the least squares anew after each column gives, keeps to
// nearest rounding where inputs are uncorrelated, and leaves a smaller output error than nearest rounding otherwise;
// descent over its codes leaves a smaller one still, and ends where no single code is better.
// Tuning starts at the codes it is given, moves them against the gradient and no further than their width, and keeps
// as many bytes as it says. BAQ's columns: its closed form, its exponential loss, and less loss than GPTQ for as many
// bits.
#include "refine/baq_columns.h"
#include "refine/code_descent.h"
#include "refine/gptq.h"
#include "refine/tuned_matrix.h"

#include "core/random.h"
#include "format/packed_matrix.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

at::Tensor normal_tensor(at::IntArrayRef shape, std::uint64_t seed) {
  at::Tensor values = at::empty(shape, at::kFloat);
  const CounterRng rng(seed);
  for (std::int64_t i = 0; i < values.numel(); ++i)
    values.data_ptr<float>()[i] = static_cast<float>(rng.normal(static_cast<std::uint64_t>(i)));
  return values;
}

/// Inputs that share a common part, so that columns can make up for each other.
at::Tensor correlated_hessian(std::int64_t cols, std::uint64_t seed) {
  const at::Tensor x = normal_tensor({4 * cols, cols}, seed) + normal_tensor({4 * cols, 1}, seed + 1);
  return at::matmul(x.t(), x).to(at::kDouble);
}

RoundedMatrix matrix_of(const at::Tensor& weights, BlockShape blocks = {16, 64}, int group_cols = 64) {
  const std::vector<float> values(weights.const_data_ptr<float>(), weights.const_data_ptr<float>() + weights.numel());
  return RoundedMatrix(HostTensor::from_f32({weights.size(0), weights.size(1)}, values),
                       {"m", weights.size(0), weights.size(1), nullptr, nullptr}, blocks, {.group_cols = group_cols},
                       {});
}

std::vector<std::uint8_t> mixed_widths(const RoundedMatrix& matrix, std::uint64_t seed) {
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()));
  for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = static_cast<std::uint8_t>(CounterRng(seed).below(i, 6));
  return widths;
}

at::Tensor unpacked(const RoundedMatrix& matrix, const CodedMatrix& coded, std::span<const std::uint8_t> widths) {
  std::vector<std::byte> blob(packed_bytes(matrix.format(), widths));
  pack(coded, widths, blob);
  const at::Tensor values = at::empty({matrix.format().rows, matrix.format().cols}, at::kFloat);
  PackedMatrix(matrix.format(), blob, "m")
      .dequantize({values.data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  return values;
}

double output_error(const at::Tensor& weights, const at::Tensor& rounded, const at::Tensor& hessian) {
  const at::Tensor error = (weights - rounded).to(at::kDouble);
  return (at::matmul(error, hessian) * error).sum().item<double>();
}

TEST(Gptq, TakesTheCodesOfLeastSquaresSolvedAnewAfterEachColumn) {
  constexpr std::int64_t kRows = 20, kCols = 150;
  constexpr double kDamping = 0.01;
  const at::Tensor weights = normal_tensor({kRows, kCols}, 1), hessian = correlated_hessian(kCols, 2);
  const RoundedMatrix matrix = matrix_of(weights);
  const auto widths = mixed_widths(matrix, 3);
  const CodedMatrix coded = round_with_feedback(matrix, widths, weights.clone(),
                                                inverse_factor(damped_hessian(hessian, kDamping, "m")), true);
  const at::Tensor rounded = unpacked(matrix, coded, widths).to(at::kDouble);
  at::Tensor damped = hessian.clone();
  damped.diagonal().add_(kDamping * hessian.diagonal().mean());
  // With columns 0 … j − 1 fixed at v, the rest that is best: w_F + H_FF^-1 H_FB (w_B − v_B).
  std::int64_t differing = 0;
  for (std::int64_t j = 0; j < kCols; ++j) {
    at::Tensor column = weights.select(1, j).to(at::kDouble);
    if (j > 0) {
      const at::Tensor done = (weights.narrow(1, 0, j).to(at::kDouble) - rounded.narrow(1, 0, j));
      const at::Tensor free = damped.narrow(0, j, kCols - j).narrow(1, j, kCols - j);
      const at::Tensor coupling = damped.narrow(0, j, kCols - j).narrow(1, 0, j);
      column = column + at::linalg_solve(free, at::matmul(coupling, done.t())).select(0, 0);
    }
    for (std::int64_t row = 0; row < kRows; ++row) {
      const std::int64_t group = j / 64;
      const int bits = matrix.width_of(widths, row, group);
      if (bits == 0) {
        ASSERT_EQ(rounded[row][j].item<double>(), 0);
        continue;
      }
      const GroupCode code = coded.groups[static_cast<std::size_t>(row * 3 + group)];
      const double scale = matrix.side().scale(code.scale, bits), zero = matrix.side().zero(code.zero, bits);
      const double level = column[row].item<double>() / scale + zero;
      const double wanted = std::nearbyint(std::clamp(level, 0.0, std::exp2(bits) - 1));
      const double found = coded.codes[static_cast<std::size_t>(row * kCols + j)];
      if (wanted == found) continue;
      ++differing;  // by f32's rounding, next to the middle between two codes
      ASSERT_NEAR(level, (wanted + found) / 2, 1e-3) << row << ", " << j;
    }
  }
  EXPECT_LE(differing, 3);
}

TEST(Gptq, UncorrelatedInputsGiveNearestRounding) {
  const at::Tensor weights = normal_tensor({33, 200}, 4);
  const RoundedMatrix matrix = matrix_of(weights);
  const auto widths = mixed_widths(matrix, 5);
  const at::Tensor factor = inverse_factor(damped_hessian(at::eye(200, at::kDouble), 0.01, "m"));
  const CodedMatrix found = round_with_feedback(matrix, widths, weights.clone(), factor, true);
  EXPECT_TRUE(at::equal(unpacked(matrix, found, widths), unpacked(matrix, matrix.nearest(widths), widths)));
}

TEST(Gptq, LeavesASmallerOutputErrorThanNearest) {
  for (const auto& [group_cols, block_cols] : {std::pair{32, 64}, std::pair{64, 64}, std::pair{128, 128}}) {
    const at::Tensor weights = normal_tensor({70, 300}, 6), hessian = correlated_hessian(300, 7);
    const RoundedMatrix matrix = matrix_of(weights, {16, block_cols}, group_cols);
    const at::Tensor factor = inverse_factor(damped_hessian(hessian, 0.01, "m"));
    for (const int bits : {1, 3, 8}) {
      const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()),
                                             static_cast<std::uint8_t>(bits));
      const CodedMatrix coded = round_with_feedback(matrix, widths, weights.clone(), factor, true);
      EXPECT_LT(
          output_error(weights, unpacked(matrix, coded, widths), hessian),
          (bits == 1 ? 0.9 : 0.8) * output_error(weights, unpacked(matrix, matrix.nearest(widths), widths), hessian))
          << bits << " bits, groups of " << group_cols;
    }
  }
}

TEST(Gptq, HandlesInputsThatAreDeadOrNotFinite) {
  EXPECT_TRUE(
      at::equal(inverse_factor(damped_hessian(at::zeros({5, 5}, at::kDouble), 0.01, "m")), at::eye(5, at::kFloat)));
  at::Tensor hessian = correlated_hessian(8, 8);
  hessian.select(0, 3).zero_();
  hessian.select(1, 3).zero_();
  EXPECT_TRUE(at::isfinite(inverse_factor(damped_hessian(hessian, 0.01, "m"))).all().item<bool>());
  hessian[2][2] = std::nan("");
  EXPECT_THROW(damped_hessian(hessian, 0.01, "m"), Error);
}

TEST(CodeDescent, EndsWhereNoSingleCodeIsBetter) {
  constexpr std::int64_t kRows = 20, kCols = 150;
  const at::Tensor weights = normal_tensor({kRows, kCols}, 21);
  const at::Tensor hessian = damped_hessian(correlated_hessian(kCols, 22), 0.01, "m");
  const RoundedMatrix matrix = matrix_of(weights);
  const auto widths = mixed_widths(matrix, 23);
  const CodedMatrix gptq = round_with_feedback(matrix, widths, weights.clone(), inverse_factor(hessian), true);
  const auto cost = [&](const CodedMatrix& coded) {
    return output_error(weights, unpacked(matrix, coded, widths), hessian);
  };
  CodedMatrix coded = gptq;
  double before = cost(gptq);
  for (const int sweeps : {1, 3, 60}) {
    coded = gptq;
    descend_codes(matrix, widths, weights, hessian.to(at::kFloat), sweeps, coded);
    const double after = cost(coded);
    EXPECT_LT(after, before) << sweeps << " sweeps";
    before = after;
  }
  EXPECT_LT(before, 0.75 * cost(gptq));
  // What the cost is against a change d of one value: d² H_jj - 2 d slope_j.
  const at::Tensor errors = (weights - unpacked(matrix, coded, widths)).to(at::kDouble);
  const at::Tensor slopes = at::matmul(errors, hessian);
  for (std::int64_t row = 0; row < kRows; ++row)
    for (std::int64_t col = 0; col < kCols; ++col) {
      const int bits = matrix.width_of(widths, row, col / 64);
      if (bits == 0) continue;
      const double scale = matrix.side().scale(coded.group(row, col / 64).scale, bits);
      const double diagonal = hessian[col][col].item<double>(), slope = slopes[row][col].item<double>();
      for (const int step : {-1, 1}) {
        const int code = coded.row_codes(row)[col] + step;
        if (code < 0 || code >= 1 << bits) continue;
        const double change = step * scale;
        EXPECT_GT(change * change * diagonal - 2 * change * slope, -1e-3 * scale * scale * diagonal)
            << row << ", " << col;
      }
    }
}

TEST(CodeDescent, LeavesWhatUncorrelatedInputsGive) {
  const at::Tensor weights = normal_tensor({33, 200}, 24);
  const RoundedMatrix matrix = matrix_of(weights);
  const auto widths = mixed_widths(matrix, 25);
  CodedMatrix coded = matrix.nearest(widths);
  const at::Tensor before = unpacked(matrix, coded, widths);
  descend_codes(matrix, widths, weights, at::eye(200, at::kFloat), 2, coded);
  EXPECT_TRUE(at::equal(unpacked(matrix, coded, widths), before));
}

TEST(CodeDescent, LeavesColumnsWhoseInputsVanishAndWeightsOfZero) {
  at::Tensor weights = normal_tensor({32, 128}, 26);
  weights.narrow(0, 0, 16).zero_();
  const RoundedMatrix matrix = matrix_of(weights);
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()), 3);
  for (const double size : {1e-60, 1.0}) {  // in f32 zeros
    const at::Tensor hessian = damped_hessian(correlated_hessian(128, 27) * size, 0.1, "m");
    const CodedMatrix gptq = round_with_feedback(matrix, widths, weights.clone(), inverse_factor(hessian), true);
    CodedMatrix coded = gptq;
    descend_codes(matrix, widths, weights, hessian.to(at::kFloat), 2, coded);
    EXPECT_EQ(coded.codes == gptq.codes, size < 1) << size;
    for (std::int64_t i = 0; i < 32 * 128; ++i) ASSERT_LT(coded.codes[static_cast<std::size_t>(i)], 8) << size;
    if (size == 1) EXPECT_EQ(unpacked(matrix, coded, widths).narrow(0, 0, 16).abs().max().item<float>(), 0);
  }
}

CodedMatrix codes_of(const TunedMatrix& tuned, std::span<const std::uint8_t> widths) {
  const std::vector<std::byte> blob = tuned.packed();
  EXPECT_EQ(blob.size(), packed_bytes(tuned.format(), widths));
  return unpack(PackedMatrix(tuned.format(), blob, "m"));
}

TEST(TunedMatrix, StartsAtTheCodes) {
  const RoundedMatrix matrix = matrix_of(normal_tensor({40, 200}, 1));
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()));
  for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = static_cast<std::uint8_t>(i % 9);
  const CodedMatrix start = matrix.nearest(widths);
  std::vector<float> wanted(40 * 200), found(wanted.size());
  matrix.dequantize(widths, wanted.data());
  const TunedMatrix tuned(matrix, widths, start, {});
  tuned.dequantize(found.data());
  EXPECT_EQ(found, wanted);
  std::vector<std::byte> blob(packed_bytes(matrix.format(), widths));
  pack(start, widths, blob);
  EXPECT_EQ(tuned.packed(), blob);
}

std::int64_t changed_in_column(const CodedMatrix& before, const CodedMatrix& after, std::int64_t rows,
                               std::int64_t col) {
  std::int64_t changed = 0;
  for (std::int64_t row = 0; row < rows; ++row) changed += before.row_codes(row)[col] != after.row_codes(row)[col];
  return changed;
}

/// How far a level is after `steps` of 1, in units of a step whose momentum has grown: its mean begins at zero.
double way_of(int steps) {
  double way = 0;
  for (int step = 1; step <= steps; ++step) way += 1 - std::pow(0.9, step);
  return way;
}

TEST(TunedMatrix, FollowsTheGradientFromTheFirstStepOn) {
  constexpr std::int64_t kRows = 400, kCols = 64;
  const RoundedMatrix matrix = matrix_of(normal_tensor({kRows, kCols}, 5));
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()), 6);
  const CodedMatrix start = matrix.nearest(widths);
  TunedMatrix tuned(matrix, widths, start, {});
  const std::vector<float> gradient(kRows * kCols, 1e-3f);
  for (int step = 1; step <= 5; ++step) {
    tuned.update(gradient.data(), {.codes = 0.1f}, step);
    const CodedMatrix now = codes_of(tuned, widths);
    for (std::int64_t col = 0; col < kCols; ++col)
      EXPECT_NEAR(static_cast<double>(changed_in_column(start, now, kRows, col)) / kRows, 0.1 * way_of(step), 0.012)
          << "step " << step << ", column " << col;
  }
}

TEST(TunedMatrix, AColumnWhoseGradientsStandOutGoesSlowerByTheirSquare) {
  constexpr std::int64_t kRows = 800, kCols = 64, kLoud = 7;
  constexpr float kLoudness = 4;
  const RoundedMatrix matrix = matrix_of(normal_tensor({kRows, kCols}, 6));
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()), 6);
  const CodedMatrix start = matrix.nearest(widths);
  TunedMatrix tuned(matrix, widths, start, {});
  std::vector<float> gradient(kRows * kCols, 1e-3f);
  for (std::int64_t row = 0; row < kRows; ++row) gradient[static_cast<std::size_t>(row * kCols + kLoud)] *= kLoudness;
  for (int step = 1; step <= 10; ++step) tuned.update(gradient.data(), {.codes = 0.04f}, step);
  const CodedMatrix now = codes_of(tuned, widths);
  const double mean_square = (kCols - 1 + kLoudness * kLoudness) / static_cast<double>(kCols);
  const double quiet = 0.04 * way_of(10) / std::sqrt(mean_square);
  const double loud = quiet * kLoudness / (kLoudness * kLoudness / mean_square);
  EXPECT_NEAR(static_cast<double>(changed_in_column(start, now, kRows, kLoud)) / kRows, loud, 0.01);
  EXPECT_NEAR(static_cast<double>(changed_in_column(start, now, kRows, kLoud + 1)) / kRows, quiet, 0.01);
}

TEST(TunedMatrix, SoDoesAGroupOfSuchColumns) {
  constexpr std::int64_t kRows = 800, kCols = 256, kGroup = 64;
  constexpr float kLoudness = 4;
  const RoundedMatrix matrix = matrix_of(normal_tensor({kRows, kCols}, 7));
  ASSERT_EQ(matrix.format().group_cols, kGroup);
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()), 6);
  const CodedMatrix start = matrix.nearest(widths);
  TunedMatrix tuned(matrix, widths, start, {});
  std::vector<float> gradient(kRows * kCols, 1e-3f);
  for (std::int64_t row = 0; row < kRows; ++row) std::fill_n(gradient.begin() + row * kCols, kGroup, kLoudness * 1e-3f);
  for (int step = 1; step <= 10; ++step) tuned.update(gradient.data(), {.codes = 0.04f}, step);
  const CodedMatrix now = codes_of(tuned, widths);
  // A group's own root makes all steps alike; by the square the loud one's are as much smaller as it is louder. Scales
  // of rows' groups differ a little, and mean squares in codes with them.
  const double quiet = 0.04 * way_of(10), mean_square = (3 + kLoudness * kLoudness) / 4;
  double changed = 0;
  for (std::int64_t col = 0; col < kGroup; ++col)
    changed += static_cast<double>(changed_in_column(start, now, kRows, col));
  EXPECT_NEAR(changed / (kRows * kGroup), quiet / (kLoudness / std::sqrt(mean_square)), 0.02);
  EXPECT_NEAR(static_cast<double>(changed_in_column(start, now, kRows, kGroup)) / kRows, quiet, 0.01);
}

TEST(TunedMatrix, ABatchThatStandsOutMakesNoLongStep) {
  constexpr std::int64_t kRows = 800, kCols = 64;
  constexpr int kQuietSteps = 30;
  const RoundedMatrix matrix = matrix_of(normal_tensor({kRows, kCols}, 9));
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()), 6);
  const CodedMatrix start = matrix.nearest(widths);
  TunedMatrix tuned(matrix, widths, start, {});
  std::vector<float> gradient(kRows * kCols, 1e-3f);
  for (int step = 1; step <= kQuietSteps; ++step) tuned.update(gradient.data(), {.codes = 0}, step);
  ASSERT_EQ(codes_of(tuned, widths).codes, start.codes);
  std::ranges::fill(gradient, -0.1f);
  tuned.update(gradient.data(), {.codes = 1}, kQuietSteps + 1);
  // A tenth of a step, less what momentum there was; its square as a part of the running mean would make it half of
  // one.
  EXPECT_NEAR(static_cast<double>(changed_in_column(start, codes_of(tuned, widths), kRows, 5)) / kRows, 0.1, 0.015);
}

TEST(TunedMatrix, StaysWhereInputsAreDead) {
  const RoundedMatrix matrix = matrix_of(normal_tensor({16, 128}, 8));
  const std::vector<std::uint8_t> widths = {3, 3};
  const CodedMatrix start = matrix.nearest(widths);
  TunedMatrix tuned(matrix, widths, start, {});
  std::vector<float> gradient(16 * 128);
  for (std::int64_t i = 0; i < 16; ++i) gradient[static_cast<std::size_t>(i * 128)] = 1e-3f;  // one column of 128
  for (int step = 1; step <= 20; ++step) tuned.update(gradient.data(), {.codes = 1}, step);
  const CodedMatrix now = codes_of(tuned, widths);
  EXPECT_GT(changed_in_column(start, now, 16, 0), 0);
  for (std::int64_t col = 1; col < 128; ++col) EXPECT_EQ(changed_in_column(start, now, 16, col), 0) << col;
}

TEST(TunedMatrix, GoesAgainstTheGradientToTheLastCodeAndNoFurther) {
  const RoundedMatrix matrix = matrix_of(normal_tensor({16, 512}, 2));
  const std::vector<std::uint8_t> widths = {1, 2, 3, 4, 5, 6, 7, 8};  // one for each block
  std::vector<float> gradient(16 * 512);
  for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] = i % 2 == 0 ? 1e-3f : -1e-3f;
  TunedMatrix tuned(matrix, widths, matrix.nearest(widths), {});
  for (int step = 1; step <= 300; ++step) tuned.update(gradient.data(), {.codes = 1}, step);
  const CodedMatrix coded = codes_of(tuned, widths);
  for (std::int64_t row = 0; row < 16; ++row)
    for (std::int64_t col = 0; col < 512; ++col)
      EXPECT_EQ(coded.row_codes(row)[col], col % 2 == 0 ? 0 : (1 << widths[static_cast<std::size_t>(col / 64)]) - 1);
}

TEST(TunedMatrix, StaysWhereItIsWhereTheGradientIsNoNumber) {
  const RoundedMatrix matrix = matrix_of(normal_tensor({16, 64}, 3));
  const std::vector<std::uint8_t> widths = {3};
  const CodedMatrix start = matrix.nearest(widths);
  TunedMatrix tuned(matrix, widths, start, {});
  tuned.update(std::vector<float>(16 * 64, NAN).data(), {.codes = 1}, 1);
  EXPECT_EQ(codes_of(tuned, widths).codes, start.codes);
}

TEST(TunedMatrix, KeepsTheBytesThatItSays) {
  const RoundedMatrix matrix = matrix_of(normal_tensor({64, 256}, 4));
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(matrix.format().block_count()), 3);
  for (const bool sides_move : {false, true}) {
    TunedMatrix tuned(matrix, widths, matrix.nearest(widths), {.sides_move = sides_move});
    double bytes = 0;
    for (const TunedMatrix::StateTensor& tensor : tuned.state()) bytes += static_cast<double>(tensor.bytes.size());
    EXPECT_EQ(bytes, 64 * 256 * tuning_bytes_per_weight(64, sides_move) + 256 * sizeof(float));
  }
}

TEST(BaqColumns, LevelsEqualiseTheLossThatTheirFormulaForesees) {
  std::vector<double> losses;
  for (int j = 0; j < 200; ++j) losses.push_back(std::exp(3 * CounterRng(9).normal(static_cast<std::uint64_t>(j))));
  constexpr double kBits = 5, kTheta = 1.95;
  const std::vector<int> levels = baq_levels(losses, kBits, kTheta);
  double log_levels = 0, mean_log = 0;
  int whole = 0;
  for (const double loss : losses) mean_log += std::log(loss) / static_cast<double>(losses.size());
  for (std::size_t j = 0; j < losses.size(); ++j) {
    log_levels += std::log2(levels[j]) / static_cast<double>(losses.size());
    if (levels[j] < 8 || levels[j] > 255) continue;
    ++whole;
    // L_j falls as n_j^−θ from 2^(θ·bits) on; what is left is the same for all but the rounding of n_j.
    const double left = losses[j] * std::exp2(kTheta * kBits) / std::pow(levels[j], kTheta);
    EXPECT_NEAR(std::log(left), mean_log, kTheta * 0.5 / levels[j] * 1.1) << j;
  }
  EXPECT_GT(whole, 100);
  EXPECT_NEAR(log_levels, kBits, 0.1) << "the mean rate is kept, but for the ends of the range";
}

TEST(BaqColumns, AreGptqAtEqualLevelsAndBetterAtTheirOwn) {
  at::Tensor weights = normal_tensor({64, 200}, 10);
  weights.mul_(normal_tensor({1, 200}, 11).exp_());
  const at::Tensor hessian = correlated_hessian(200, 12), factor = inverse_factor(damped_hessian(hessian, 0.01, "m"));
  const ColumnRounding uniform = round_columns(weights, factor, std::vector<int>(200, 8));
  EXPECT_NEAR(uniform.field_bits, 64 * 200 * 3, 1e-6);
  EXPECT_LE(uniform.entropy_bits, uniform.field_bits);
  double trace = 0;
  for (const double loss : uniform.losses) trace += 2 * loss;
  at::Tensor damped = hessian.clone();
  damped.diagonal().add_(0.01 * hessian.diagonal().mean());
  EXPECT_NEAR(trace / output_error(weights, uniform.weights, damped), 1, 1e-3) << "the columns' losses add up to all";
  const ColumnRounding baq = round_columns(weights, factor, baq_levels(uniform.losses, 3));
  EXPECT_LT(output_error(weights, baq.weights, hessian), 0.8 * output_error(weights, uniform.weights, hessian));
  EXPECT_LT(baq.entropy_bits, 1.05 * uniform.field_bits);
}

}  // namespace
}  // namespace scalebits
