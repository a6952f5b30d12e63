#include "refine/tuned_matrix.h"

#include "core/lanes.h"
#include "core/parallel.h"
#include "format/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace scalebits {
namespace {

constexpr float kMomentum = 0.9f, kSquareMemory = 0.99f;
constexpr std::int64_t kRowsPerTask = 16;
constexpr float kEdge = 0.49f;  // levels stay this near to a code

struct Corrections {
  float mean, square;
};

SCALEBITS_CLONES
void values_of_group(float* values, const float* level, std::int64_t count, float scale, float zero) {
  for_lanes(count, [&](std::int64_t i, auto lanes) SCALEBITS_STEP {
    Lanes l;
    load_lanes(l, level + i, lanes);
    round_lanes(l);
    store_lanes(values + i, (l - zero) * scale, lanes);
  });
}

/// From the middles of their cells `part` of the way to the weights.
SCALEBITS_CLONES
void lean_levels(float* level, const float* weights, std::int64_t count, float scale, float zero, float part) {
  for_lanes(count, [&](std::int64_t i, auto lanes) SCALEBITS_STEP {
    Lanes l, w;
    load_lanes(l, level + i, lanes);
    load_lanes(w, weights + i, lanes);
    Lanes way = w / scale + zero - l;
    clamp_lanes(way, -kEdge, kEdge);
    store_lanes(level + i, l + way * part, lanes);
  });
}

/// Of a group's gradient: Σ g², and what it says of a change of all its values in proportion and of their zero.
struct GroupSlopes {
  float squares = 0, along_values = 0, along_zero = 0;
};

SCALEBITS_CLONES
void slopes_of_group(GroupSlopes& slopes, const float* level, const float* gradient, std::int64_t count, float scale,
                     float zero) {
  Lanes squares{}, values{}, sums{};
  for_lanes(count, [&](std::int64_t i, auto lanes) SCALEBITS_STEP {
    Lanes g, l;
    load_lanes(g, gradient + i, lanes);
    load_lanes(l, level + i, lanes);
    round_lanes(l);
    squares += g * g;
    values += g * (l - zero);
    sums += g;
  });
  slopes = {sum_lanes(squares), scale * sum_lanes(values), -scale * sum_lanes(sums)};
}

/// One step of Adam on the levels of a group. `mean` is the running gradient in units of a level.
SCALEBITS_CLONES
void step_levels(float* level, float* mean, const float* gradient, std::int64_t count, float scale, float top_code,
                 float step) {
  for (std::int64_t i = 0; i < count; ++i) {
    mean[i] = kMomentum * mean[i] + (1 - kMomentum) * scale * gradient[i];
    const float moved = level[i] - step * mean[i];
    level[i] = moved < -kEdge ? -kEdge : moved > top_code + kEdge ? top_code + kEdge : moved;
  }
}

/// The square of the mean root: a few groups with large squares, as of words that every text has, hardly raise it.
float usual_square(std::span<const float> squares) {
  double roots = 0;
  for (const float square : squares) roots += std::sqrt(square);
  const double mean = roots / static_cast<double>(squares.size());
  return static_cast<float>(mean * mean);
}

/// And on one level; `square` is the running mean square of its gradient.
void step_one(float& level, float& mean, float& square, float gradient, float top_code, float rate,
              Corrections corrections) {
  mean = kMomentum * mean + (1 - kMomentum) * gradient;
  square = kSquareMemory * square + (1 - kSquareMemory) * gradient * gradient;
  if (square <= 0) return;
  const float moved = level - rate * corrections.mean * mean / std::sqrt(square * corrections.square);
  level = std::clamp(moved, -kEdge, top_code + kEdge);
}

}  // namespace

TunedMatrix::TunedMatrix(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, const CodedMatrix& start,
                         double lean, Pace pace)
    : matrix_(matrix), widths_(widths), pace_(pace), level_(start.codes.begin(), start.codes.end()),
      mean_(level_.size()), square_(start.groups.size()), sides_(start.groups.size()) {
  for (std::size_t i = 0; i < sides_.size(); ++i)
    sides_[i] = {{static_cast<float>(start.groups[i].scale), static_cast<float>(start.groups[i].zero)}, {}, {}};
  const auto part = static_cast<float>(lean);
  each_row([&](std::int64_t row) {
    thread_local std::vector<float> weights;
    weights.resize(static_cast<std::size_t>(matrix_.padded_cols()));
    matrix_.stored_row(row, weights);
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      if (bits == 0) return;
      const GroupCode code = rounded(sides_[group]);
      lean_levels(level_.data() + row * format().cols + first, weights.data() + first, count,
                  matrix_.side().scale(code.scale, bits), matrix_.side().zero(code.zero, bits), part);
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

GroupCode TunedMatrix::rounded(const Side& side) const {
  return {static_cast<std::uint8_t>(std::nearbyint(side.level[0])),
          static_cast<std::uint8_t>(std::nearbyint(side.level[1]))};
}

void TunedMatrix::dequantize(float* out) const {
  each_row([&](std::int64_t row) {
    thread_local std::vector<float> values;
    values.resize(static_cast<std::size_t>(format().cols));
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      const GroupCode code = rounded(sides_[group]);
      const float scale = bits > 0 ? matrix_.side().scale(code.scale, bits) : 0.0f;
      const float zero = bits > 0 ? matrix_.side().zero(code.zero, bits) : 0.0f;
      values_of_group(values.data() + first, level_.data() + row * format().cols + first, count, scale, zero);
    });
    matrix_.to_original_row(row, values, out);
  });
}

void TunedMatrix::update(const float* gradient, TuneRates rates, int step) {
  const Corrections corrections{1 / (1 - std::pow(kMomentum, static_cast<float>(step))),
                                1 / (1 - std::pow(kSquareMemory, static_cast<float>(step)))};
  const SideFormat& format_of_sides = matrix_.side().format;
  const float range_step = std::numbers::ln2_v<float> * format_of_sides.scale_step_log2;
  const auto top_range = static_cast<float>((1 << format_of_sides.scale_bits) - 1);
  const auto top_zero = static_cast<float>((1 << format_of_sides.zero_bits) - 1);
  const float least_square = pace_ == Pace::by_use ? usual_square(square_) : 0.0f;
  each_row([&](std::int64_t row) {
    thread_local std::vector<float> stored;
    stored.resize(static_cast<std::size_t>(matrix_.padded_cols()));
    matrix_.stored_row_of(gradient, row, stored);
    each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
      if (bits == 0) return;
      const float* slope = stored.data() + first;
      float* level = level_.data() + row * format().cols + first;
      Side& side = sides_[group];
      const GroupCode code = rounded(side);
      const float scale = matrix_.side().scale(code.scale, bits), zero = matrix_.side().zero(code.zero, bits);
      GroupSlopes slopes;
      slopes_of_group(slopes, level, slope, count, scale, zero);
      if (rates.sides > 0) {
        step_one(side.level[0], side.mean[0], side.square[0], slopes.along_values * range_step, top_range, rates.sides,
                 corrections);
        if (format_of_sides.zero_bits > 0)
          step_one(side.level[1], side.mean[1], side.square[1],
                   slopes.along_zero * (matrix_.side().zero(1, bits) - matrix_.side().zero(0, bits)), top_zero,
                   rates.sides, corrections);
      }
      float& square = square_[group];
      square =
          kSquareMemory * square + (1 - kSquareMemory) * scale * scale * slopes.squares / static_cast<float>(count);
      if (square > 0)
        step_levels(level, mean_.data() + (level - level_.data()), slope, count, scale,
                    static_cast<float>((1 << bits) - 1),
                    rates.codes * corrections.mean / std::sqrt(std::max(square, least_square) * corrections.square));
    });
  });
}

std::vector<std::byte> TunedMatrix::packed() const {
  CodedMatrix coded(format());
  for (std::size_t i = 0; i < level_.size(); ++i) coded.codes[i] = static_cast<std::uint8_t>(std::nearbyint(level_[i]));
  std::transform(sides_.begin(), sides_.end(), coded.groups.begin(), [&](const Side& side) { return rounded(side); });
  std::vector<std::byte> blob(packed_bytes(format(), widths_));
  pack(coded, widths_, blob);
  return blob;
}

std::vector<std::pair<std::string, std::span<float>>> TunedMatrix::state() {
  static_assert(sizeof(Side) == 6 * sizeof(float));
  return {{"level", level_},
          {"mean", mean_},
          {"square", square_},
          {"sides", {reinterpret_cast<float*>(sides_.data()), 6 * sides_.size()}}};
}

}  // namespace scalebits
