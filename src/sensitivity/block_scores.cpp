#include "sensitivity/block_scores.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/lanes.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<Statistic, std::string_view> kNames[] = {{Statistic::absolute, "absolute"},
                                                             {Statistic::signed_sum, "signed"},
                                                             {Statistic::fisher, "fisher"},
                                                             {Statistic::gradient, "gradient"},
                                                             {Statistic::weight_error, "weight-error"}};

/// One group's codes at one width: what its weights round to.
struct GroupGrid {
  float scale = 1, zero = 0, top_code = 0;
  bool dropped = true;
};

template <Statistic kStatistic>
SCALEBITS_INLINE void term_of(const Lanes& weight, const Lanes& gradient, const GroupGrid& grid, float inverse,
                              Lanes& term) {
  if constexpr (kStatistic == Statistic::gradient) {
    term = gradient * gradient;
    return;
  }
  Lanes error = weight;
  if (!grid.dropped) {
    Lanes code = weight * inverse + grid.zero;
    clamp_lanes(code, 0.0f, grid.top_code);
    round_lanes(code);
    error = weight - (code - grid.zero) * grid.scale;
  }
  if constexpr (kStatistic == Statistic::weight_error) {
    term = error * error;
  } else {
    term = gradient * error;
    if constexpr (kStatistic == Statistic::absolute) abs_lanes(term);
    if constexpr (kStatistic == Statistic::fisher) term = term * term;
  }
}

/// Σ of the terms over one group, lane by lane, added to `sum`; and to `columns` when set.
template <Statistic kStatistic>
SCALEBITS_INLINE void add_group(const float* weights, const float* gradient, std::size_t count, const GroupGrid& grid,
                                float* lane_sums, float* columns) {
  const float inverse = 1.0f / grid.scale;
  Lanes sum;
  load_lanes(sum, lane_sums);
  for (std::size_t i = 0; i < count; i += kLanes) {
    Lanes weight, slope, term;
    load_lanes(weight, weights + i);
    load_lanes(slope, gradient + i);
    term_of<kStatistic>(weight, slope, grid, inverse, term);
    sum += term;
    if (columns != nullptr) {
      Lanes column;
      load_lanes(column, columns + i);
      store_lanes(columns + i, column + term);
    }
  }
  store_lanes(lane_sums, sum);
}

// target_clones cannot sit on templates, so the choice of statistic lies inside.
SCALEBITS_CLONES
void add_group_of(Statistic statistic, const float* weights, const float* gradient, std::size_t count,
                  const GroupGrid& grid, float* lane_sums, float* columns) {
  switch (statistic) {
    case Statistic::absolute: return add_group<Statistic::absolute>(weights, gradient, count, grid, lane_sums, columns);
    case Statistic::signed_sum:
      return add_group<Statistic::signed_sum>(weights, gradient, count, grid, lane_sums, columns);
    case Statistic::fisher: return add_group<Statistic::fisher>(weights, gradient, count, grid, lane_sums, columns);
    case Statistic::gradient: return add_group<Statistic::gradient>(weights, gradient, count, grid, lane_sums, columns);
    case Statistic::weight_error:
      return add_group<Statistic::weight_error>(weights, gradient, count, grid, lane_sums, columns);
  }
}

GroupGrid grid_of(const RoundedMatrix& matrix, std::int64_t row, std::int64_t group, int bits) {
  if (bits == 0) return {};
  const GroupCode code = matrix.code(bits, row, group);
  return {matrix.side().scale(code.scale, bits), matrix.side().zero(code.zero, bits),
          static_cast<float>((1 << bits) - 1), false};
}

using LaneSums = std::array<float, kLanes>;

float total(const LaneSums& sums) {
  Lanes lanes;
  load_lanes(lanes, sums.data());
  return sum_lanes(lanes);
}

}  // namespace

std::string_view name_of(Statistic statistic) {
  for (const auto& [value, name] : kNames)
    if (value == statistic) return name;
  throw InternalError("unknown statistic");
}

Statistic statistic_from_name(std::string_view name) {
  std::string known_names;
  for (const auto& [value, known] : kNames) {
    if (known == name) return value;
    known_names += (known_names.empty() ? "" : ", ") + std::string(known);
  }
  fail(ErrorKind::usage, "unknown sensitivity statistic '{}'; known are {}", name, known_names);
}

std::vector<WidthScores> score_blocks(const RoundedMatrix& matrix, const float* gradient, Statistic statistic) {
  const MatrixFormat& format = matrix.format();
  const std::int64_t block_cols = format.block_col_count(), groups_per_block = format.block_cols / format.group_cols;
  std::vector<WidthScores> scores(static_cast<std::size_t>(format.block_count()));
  parallel_for(format.block_row_count(), [&](std::int64_t block_row) {
    std::vector<std::array<LaneSums, 9>> sums(static_cast<std::size_t>(block_cols));
    std::vector<float> weights(static_cast<std::size_t>(matrix.padded_cols())), gradients(weights.size());
    const std::int64_t end = std::min(format.rows, (block_row + 1) * format.block_rows);
    for (std::int64_t row = block_row * format.block_rows; row < end; ++row) {
      matrix.stored_row(row, weights);
      matrix.stored_row_of(gradient, row, gradients);
      for (std::int64_t group = 0; group < matrix.groups_per_row(); ++group) {
        const auto first = static_cast<std::size_t>(group * format.group_cols);
        auto& block_sums = sums[static_cast<std::size_t>(group / groups_per_block)];
        for (int bits = 0; bits <= 8; ++bits)
          add_group_of(statistic, weights.data() + first, gradients.data() + first,
                       static_cast<std::size_t>(format.group_cols), grid_of(matrix, row, group, bits),
                       block_sums[static_cast<std::size_t>(bits)].data(), nullptr);
      }
    }
    for (std::int64_t col = 0; col < block_cols; ++col)
      for (std::size_t bits = 0; bits <= 8; ++bits) {
        float score = total(sums[static_cast<std::size_t>(col)][bits]);
        if (statistic == Statistic::signed_sum) score = std::abs(score);
        if (statistic == Statistic::gradient) score = std::ldexp(score, -2 * static_cast<int>(bits));
        scores[static_cast<std::size_t>(format.block_index(block_row, col))][bits] = score;
      }
  });
  return scores;
}

ChannelScores score_channels(const RoundedMatrix& matrix, const float* gradient, Statistic statistic, int bits) {
  constexpr std::int64_t kRowsPerTask = 64;
  const MatrixFormat& format = matrix.format();
  const MatrixPartition& partition = matrix.partition();
  const std::int64_t tasks = (format.rows + kRowsPerTask - 1) / kRowsPerTask;
  ChannelScores result{std::vector<double>(static_cast<std::size_t>(format.rows)),
                       std::vector<double>(static_cast<std::size_t>(format.cols))};
  std::vector<std::vector<float>> column_sums(static_cast<std::size_t>(tasks));
  parallel_for(tasks, [&](std::int64_t task) {
    auto& columns = column_sums[static_cast<std::size_t>(task)];
    columns.resize(static_cast<std::size_t>(matrix.padded_cols()));
    std::vector<float> weights(columns.size()), gradients(columns.size());
    const std::int64_t end = std::min(format.rows, (task + 1) * kRowsPerTask);
    for (std::int64_t row = task * kRowsPerTask; row < end; ++row) {
      matrix.stored_row(row, weights);
      matrix.stored_row_of(gradient, row, gradients);
      LaneSums sums{};
      for (std::int64_t group = 0; group < matrix.groups_per_row(); ++group) {
        const auto first = static_cast<std::size_t>(group * format.group_cols);
        add_group_of(statistic, weights.data() + first, gradients.data() + first,
                     static_cast<std::size_t>(format.group_cols), grid_of(matrix, row, group, bits), sums.data(),
                     columns.data() + first);
      }
      const std::size_t original = partition.row_order ? partition.row_order->order[static_cast<std::size_t>(row)]
                                                       : static_cast<std::size_t>(row);
      result.rows[original] = total(sums);
    }
  });
  for (const auto& columns : column_sums)
    for (std::size_t col = 0; col < result.cols.size(); ++col)
      result.cols[partition.col_order ? partition.col_order->order[col] : col] += columns[col];
  if (statistic == Statistic::signed_sum)
    for (auto* sums : {&result.rows, &result.cols})
      for (double& sum : *sums) sum = std::abs(sum);
  return result;
}

}  // namespace scalebits
