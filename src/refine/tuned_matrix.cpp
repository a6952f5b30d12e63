#include "refine/tuned_matrix.h"

#include "core/float_types.h"
#include "core/lanes.h"
#include "core/parallel.h"
#include "format/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace scalebits {

/// What a group's gradient says of a change of all its values in proportion, and of their zero.
struct TunedMatrix::GroupSlopes {
  float along_values = 0, along_zero = 0;
};

namespace {

constexpr float kMomentum = 0.9f, kSquareMemory = 0.99f;
constexpr std::int64_t kRowsPerTask = 16;
constexpr int kLevelBits = 16;
constexpr float kLeastSquares = 1e-30f;  // that others are divided by
constexpr float kEdge = 0.49f;           // of a cell, from its middle: where sides stay

/// The levels of a group at one width.
struct LevelFormat {
  explicit LevelFormat(int bits) : shift(kLevelBits - bits), units(static_cast<float>(1 << shift)) {}
  int shift;    // level >> shift is the code
  float units;  // of a level in one code
};

SCALEBITS_CLONES
void codes_of_group(float* codes, const std::uint16_t* level, std::int64_t count, int shift) {
  for (std::int64_t i = 0; i < count; ++i) codes[i] = static_cast<float>(level[i] >> shift);
}

SCALEBITS_CLONES
void values_of_group(float* values, const std::uint16_t* level, std::int64_t count, int shift, float scale,
                     float zero) {
  for (std::int64_t i = 0; i < count; ++i) values[i] = (static_cast<float>(level[i] >> shift) - zero) * scale;
}

/// Levels anywhere in their codes' cells, spread evenly along rows and columns (the R2 sequence). `first`: column.
SCALEBITS_CLONES
void spread_levels(std::uint16_t* level, const std::uint8_t* codes, std::int64_t row, std::int64_t first,
                   std::int64_t count, const LevelFormat& format) {
  constexpr std::uint32_t kAlongRow = 3242174889u, kAlongColumn = 2447445414u;  // of 2^32: 0.7549, 0.5698
  const std::uint32_t begin = static_cast<std::uint32_t>(row) * kAlongColumn;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t way = begin + static_cast<std::uint32_t>(first + i) * kAlongRow;
    level[i] = static_cast<std::uint16_t>((codes[i] << format.shift) + (way >> (32 - format.shift)));
  }
}

/// sums[i] += factor · gradient[i]²
SCALEBITS_CLONES
void add_squares(float* sums, const float* gradient, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) sums[i] += gradient[i] * gradient[i] * factor;
}

SCALEBITS_CLONES
float squares_of_group(const float* gradient, std::int64_t count) {
  Lanes squares{};
  for_lanes(count, [&](std::int64_t i, auto lanes) SCALEBITS_STEP {
    Lanes g;
    load_lanes(g, gradient + i, lanes);
    squares += g * g;
  });
  return sum_lanes(squares);
}

SCALEBITS_CLONES
TunedMatrix::GroupSlopes slopes_of_group(const float* codes, const float* gradient, std::int64_t count, float scale,
                                         float zero) {
  Lanes values{}, sums{};
  for_lanes(count, [&](std::int64_t i, auto lanes) SCALEBITS_STEP {
    Lanes g, c;
    load_lanes(g, gradient + i, lanes);
    load_lanes(c, codes + i, lanes);
    values += g * (c - zero);
    sums += g;
  });
  return {scale * sum_lanes(values), -scale * sum_lanes(sums)};
}

/// One step of Adam on the levels of a group, `step` in codes, times `paces` of its columns.
SCALEBITS_CLONES
void step_levels(std::uint16_t* level, std::uint16_t* mean, const float* gradient, const float* paces,
                 std::int64_t count, const LevelFormat& format, float scale, float step) {
  constexpr float kTop = 65535.0f;
  const float step_units = step * format.units;
  for (std::int64_t i = 0; i < count; ++i) {
    const float running = kMomentum * bf16_to_f32(mean[i]) + (1 - kMomentum) * scale * gradient[i];
    const float moved = static_cast<float>(level[i]) - step_units * paces[i] * running + 0.5f;
    mean[i] = f32_to_bf16(running);
    level[i] = static_cast<std::uint16_t>(!(moved > 0.0f) ? 0.0f : moved > kTop ? kTop : moved);  // 0 for NaN
  }
}

/// The square of the mean root: a few groups with large squares, as of words that every text has, hardly raise it.
float usual_square(std::span<const float> squares) {
  double roots = 0;
  for (const float square : squares) roots += std::sqrt(square);
  const double mean = roots / static_cast<double>(squares.size());
  return static_cast<float>(mean * mean);
}

/// Into a running mean of squares, which is never below its latest: a batch that stands out makes no long step, and
/// makes the next ones short.
void take_square(float& running, float square, float correction) {
  running = std::max(kSquareMemory * running + (1 - kSquareMemory) * square, square / correction);
}

/// One step of Adam on one level of a side; `square` is the running mean square of its gradient.
void step_one(float& level, float& mean, float& square, float gradient, float top_code, float rate, float correction) {
  mean = kMomentum * mean + (1 - kMomentum) * gradient;
  square = kSquareMemory * square + (1 - kSquareMemory) * gradient * gradient;
  if (square <= 0) return;
  const float moved = level - rate * mean / std::sqrt(square * correction);
  level = std::clamp(moved, -kEdge, top_code + kEdge);
}

}  // namespace

double tuning_bytes_per_weight(std::int64_t group_cols, bool sides_move) {
  const double group = sizeof(float) + sizeof(GroupCode) + (sides_move ? 6 * sizeof(float) : 0);
  return 2 * sizeof(std::uint16_t) + group / static_cast<double>(group_cols);
}

TunedMatrix::TunedMatrix(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, const CodedMatrix& start,
                         const Options& options)
    : matrix_(matrix), widths_(widths), pace_(options.pace), level_(start.codes.size()), mean_(level_.size()),
      square_(start.groups.size()), column_square_(static_cast<std::size_t>(matrix.format().cols)),
      groups_(start.groups) {
  if (options.sides_move)
    for (const GroupCode& group : groups_)
      sides_.push_back({{static_cast<float>(group.scale), static_cast<float>(group.zero)}, {}, {}});
  each_row([&](std::int64_t row) {
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t, int bits) {
      if (bits > 0)
        spread_levels(level_.data() + row * format().cols + first, start.row_codes(row) + first, row, first, count,
                      LevelFormat(bits));
    });
  });
}

template <typename Body>
void TunedMatrix::each_row(const Body& body) const {
  const std::int64_t rows = format().rows;
  parallel_for(divide_up(rows, kRowsPerTask), [&](std::int64_t task) {
    for (std::int64_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) body(row);
  });
}

/// body(first column, columns, index of the group, its width)
template <typename Body>
void TunedMatrix::each_group(std::int64_t row, const Body& body) const {
  for (std::int64_t group = 0; group < matrix_.groups_per_row(); ++group) {
    const std::int64_t first = group * format().group_cols;
    body(first, std::min<std::int64_t>(format().group_cols, format().cols - first),
         static_cast<std::size_t>(row * matrix_.groups_per_row() + group), matrix_.width_of(widths_, row, group));
  }
}

void TunedMatrix::dequantize(float* out) const {
  each_row([&](std::int64_t row) {
    thread_local std::vector<float> values;
    values.resize(static_cast<std::size_t>(format().cols));
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      if (bits == 0) {
        std::fill_n(values.begin() + first, count, 0.0f);
        return;
      }
      values_of_group(values.data() + first, level_.data() + row * format().cols + first, count,
                      LevelFormat(bits).shift, matrix_.side().scale(groups_[group].scale, bits),
                      matrix_.side().zero(groups_[group].zero, bits));
    });
    matrix_.to_original_row(row, values, out);
  });
}

/// What a column's levels do together grows with its inputs, and so with its gradients, as a step's does: one that
/// stands out in its rows, as of an input that is large for every token, goes slower by the square, or it would run
/// away. None goes faster than its groups.
std::vector<float> TunedMatrix::take_squares(const float* gradient, float correction) {
  const std::int64_t rows = format().rows, cols = format().cols;
  std::vector<float> parts(static_cast<std::size_t>(divide_up(rows, kRowsPerTask) * cols));
  each_row([&](std::int64_t row) {
    thread_local std::vector<float> stored;
    stored.resize(static_cast<std::size_t>(matrix_.padded_cols()));
    matrix_.stored_row_of(gradient, row, stored);
    float row_squares = 0;
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      if (bits == 0) return;
      const float scale = matrix_.side().scale(groups_[group].scale, bits);
      const float squares = scale * scale * squares_of_group(stored.data() + first, count);
      take_square(square_[group], squares / static_cast<float>(count), correction);
      row_squares += squares;
    });
    if (!(row_squares > kLeastSquares && std::isfinite(row_squares))) return;
    const float in_mean_squares = static_cast<float>(cols) / row_squares;
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      if (bits == 0) return;
      const float scale = matrix_.side().scale(groups_[group].scale, bits);
      add_squares(parts.data() + row / kRowsPerTask * cols + first, stored.data() + first, count,
                  scale * scale * in_mean_squares);
    });
  });
  for (std::size_t col = 0; col < column_square_.size(); ++col) {
    float sum = 0;
    for (std::size_t i = col; i < parts.size(); i += column_square_.size()) sum += parts[i];
    take_square(column_square_[col], sum / static_cast<float>(rows), correction);
  }
  // A level's own group has divided by the root of its mean already.
  std::vector<float> paces(column_square_.size(), 1.0f);
  for (std::int64_t first = 0; first < cols; first += format().group_cols) {
    const auto count = std::min<std::int64_t>(format().group_cols, cols - first);
    const std::span<const float> squares(column_square_.data() + first, static_cast<std::size_t>(count));
    const float mean = std::reduce(squares.begin(), squares.end()) / static_cast<float>(count);
    const float root = std::sqrt(mean * correction);
    for (std::size_t i = 0; i < squares.size(); ++i)
      if (const float square = squares[i] * correction; square > root)
        paces[static_cast<std::size_t>(first) + i] = root / square;
  }
  return paces;
}

void TunedMatrix::update(const float* gradient, TuneRates rates, int step) {
  // Running squares begin at zero and are corrected for it; the running mean is not: the first steps, which know one
  // batch each, are short.
  const float correction = 1 / (1 - std::pow(kSquareMemory, static_cast<float>(step)));
  const std::vector<float> paces = take_squares(gradient, correction);
  const float least_square = pace_ == Pace::by_use ? usual_square(square_) : 0.0f;
  each_row([&](std::int64_t row) {
    thread_local std::vector<float> stored, codes;
    stored.resize(static_cast<std::size_t>(matrix_.padded_cols()));
    codes.resize(static_cast<std::size_t>(format().group_cols));
    matrix_.stored_row_of(gradient, row, stored);
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      if (bits == 0) return;
      const LevelFormat levels(bits);
      const std::int64_t begin = row * format().cols + first;
      const float* slope = stored.data() + first;
      const float scale = matrix_.side().scale(groups_[group].scale, bits);
      if (!sides_.empty()) {
        const float zero = matrix_.side().zero(groups_[group].zero, bits);
        codes_of_group(codes.data(), level_.data() + begin, count, levels.shift);
        step_side(group, bits, slopes_of_group(codes.data(), slope, count, scale, zero), rates.sides, correction);
      }
      if (square_[group] > 0)
        step_levels(level_.data() + begin, mean_.data() + begin, slope, paces.data() + first, count, levels, scale,
                    rates.codes / std::sqrt(std::max(square_[group], least_square) * correction));
    });
  });
}

void TunedMatrix::step_side(std::size_t group, int bits, const GroupSlopes& slopes, float rate, float correction) {
  const SideFormat& format_of_sides = matrix_.side().format;
  Side& side = sides_[group];
  step_one(side.level[0], side.mean[0], side.square[0],
           slopes.along_values * std::numbers::ln2_v<float> * format_of_sides.scale_step_log2,
           static_cast<float>((1 << format_of_sides.scale_bits) - 1), rate, correction);
  if (format_of_sides.zero_bits > 0)
    step_one(side.level[1], side.mean[1], side.square[1],
             slopes.along_zero * (matrix_.side().zero(1, bits) - matrix_.side().zero(0, bits)),
             static_cast<float>((1 << format_of_sides.zero_bits) - 1), rate, correction);
  groups_[group] = {static_cast<std::uint8_t>(std::nearbyint(side.level[0])),
                    static_cast<std::uint8_t>(std::nearbyint(side.level[1]))};
}

std::vector<std::byte> TunedMatrix::packed() const {
  CodedMatrix coded(format());
  coded.groups = groups_;
  each_row([&](std::int64_t row) {
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t, int bits) {
      const std::uint16_t* level = level_.data() + row * format().cols + first;
      for (std::int64_t i = 0; i < count; ++i)
        coded.row_codes(row)[first + i] = static_cast<std::uint8_t>(level[i] >> LevelFormat(bits).shift);
    });
  });
  std::vector<std::byte> blob(packed_bytes(format(), widths_));
  pack(coded, widths_, blob);
  return blob;
}

std::vector<TunedMatrix::StateTensor> TunedMatrix::state() {
  static_assert(sizeof(Side) == 6 * sizeof(float) && sizeof(GroupCode) == 2);
  return {{"level", "U16", std::as_writable_bytes(std::span(level_))},
          {"mean", "BF16", std::as_writable_bytes(std::span(mean_))},
          {"square", "F32", std::as_writable_bytes(std::span(square_))},
          {"column_square", "F32", std::as_writable_bytes(std::span(column_square_))},
          {"groups", "U8", std::as_writable_bytes(std::span(groups_))},
          {"sides", "F32", std::as_writable_bytes(std::span(sides_))}};
}

}  // namespace scalebits
