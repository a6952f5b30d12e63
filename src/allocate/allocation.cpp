#include "allocate/allocation.h"

#include "allocate/knapsack.h"
#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<CostModel, std::string_view> kNames[] = {{CostModel::linear, "linear"},
                                                             {CostModel::quadratic, "quadratic"}};

struct Move {
  std::uint32_t matrix, block;
  std::uint8_t width;  // after the move
  std::int64_t bytes;  // taken (raise) or freed (lower), positive
  double value;        // loss that a byte saves (raise) or costs (lower); below 0 where scores do not fall with width
};

/// Calls visit(matrix, block, choices, width) for each block of the plan.
template <typename Visit>
void each_block(const Choices& choices, const BitPlan& plan, Visit&& visit) {
  SCALEBITS_ASSERT(choices.size() == plan.widths.size());
  for (std::size_t m = 0; m < choices.size(); ++m) {
    SCALEBITS_ASSERT(choices[m].bytes.size() == plan.widths[m].size());
    for (std::size_t i = 0; i < plan.widths[m].size(); ++i)
      visit(static_cast<std::uint32_t>(m), static_cast<std::uint32_t>(i), choices[m], plan.widths[m][i]);
  }
}

/// Single steps up (or down) from the plan, best first.
std::vector<Move> single_steps(const Choices& choices, const BitPlan& plan, bool up, const MoveLimits& limits) {
  std::vector<Move> moves;
  each_block(choices, plan, [&](std::uint32_t m, std::uint32_t i, const MatrixChoices& matrix, int width) {
    if (limits.held != nullptr && limits.held->widths[m][i] != 0) return;
    const int to = up ? width + 1 : width - 1;
    if (to < matrix.min_width || to > matrix.max_width) return;
    const auto& bytes = matrix.bytes[i];
    const std::int64_t step = std::abs(static_cast<std::int64_t>(bytes[static_cast<std::size_t>(to)]) -
                                       static_cast<std::int64_t>(bytes[static_cast<std::size_t>(width)]));
    const auto& cost = matrix.cost[i];
    const double change =
        static_cast<double>(cost[static_cast<std::size_t>(to)]) - cost[static_cast<std::size_t>(width)];
    const double value =
        (up ? -limits.raise_trust : 1.0) * change / static_cast<double>(std::max<std::int64_t>(step, 1));
    moves.push_back({m, i, static_cast<std::uint8_t>(to), step, value});
  });
  std::stable_sort(moves.begin(), moves.end(),
                   [&](const Move& a, const Move& b) { return up ? a.value > b.value : a.value < b.value; });
  return moves;
}

}  // namespace

std::string_view name_of(CostModel model) {
  for (const auto& [value, name] : kNames)
    if (value == model) return name;
  throw InternalError("unknown cost model");
}

CostModel cost_model_from_name(std::string_view name) {
  for (const auto& [value, known] : kNames)
    if (known == name) return value;
  fail(ErrorKind::usage, "unknown cost model '{}'; known are linear, quadratic", name);
}

std::vector<std::array<std::uint32_t, 9>> bytes_of_blocks(const MatrixFormat& format) {
  std::vector<std::array<std::uint32_t, 9>> bytes(static_cast<std::size_t>(format.block_count()));
  for (std::int64_t row = 0; row < format.block_row_count(); ++row)
    for (std::int64_t col = 0; col < format.block_col_count(); ++col)
      for (int width = 0; width <= 8; ++width) {
        const BlockBytes block = block_bytes(format, row, col, width);
        bytes[static_cast<std::size_t>(format.block_index(row, col))][static_cast<std::size_t>(width)] =
            static_cast<std::uint32_t>(block.codes + block.side);
      }
  return bytes;
}

std::uint64_t bytes_of_plan(const Choices& choices, const BitPlan& plan) {
  std::uint64_t bytes = 0;
  each_block(choices, plan, [&](std::uint32_t, std::uint32_t i, const MatrixChoices& matrix, int width) {
    bytes += matrix.bytes[i][static_cast<std::size_t>(width)];
  });
  return bytes;
}

std::vector<WidthScores> costs_of(const std::vector<WidthScores>& scores, const std::vector<std::uint8_t>& widths,
                                  CostModel model) {
  SCALEBITS_ASSERT(scores.size() == widths.size());
  std::vector<WidthScores> costs = scores;
  for (std::size_t i = 0; i < costs.size(); ++i) {
    const float here = scores[i][widths[i]];
    for (float& cost : costs[i]) {
      if (!(cost >= 0) || !std::isfinite(cost))
        fail_input("sensitivity scores must be finite and not negative, found {} in block {}", cost, i);
      if (model == CostModel::quadratic) cost = here > 0 ? cost * (cost / here) : cost;
    }
  }
  return costs;
}

BitPlan allocate(const Choices& choices, const BitPlan& plan, std::uint64_t target_bytes, const MoveLimits& limits) {
  Knapsack knapsack;
  SCALEBITS_ASSERT(choices.size() == plan.widths.size());
  for (std::size_t m = 0; m < choices.size(); ++m) {
    SCALEBITS_ASSERT(choices[m].bytes.size() == plan.widths[m].size());
    knapsack.blocks.push_back(plan.widths[m].size());
  }
  knapsack.options = [&](std::size_t m, std::size_t i, BlockOptions& options) {
    const MatrixChoices& matrix = choices[m];
    const int width = plan.widths[m][i];
    options.low = std::max(matrix.min_width, width - limits.lower_by);
    options.high = std::min(matrix.max_width, width + limits.raise_by);
    const double here = matrix.cost[i][static_cast<std::size_t>(width)];
    for (int to = options.low; to <= options.high; ++to) {
      const auto w = static_cast<std::size_t>(to);
      const double there = matrix.cost[i][w];
      options.cost[w] = to > width ? here + limits.raise_trust * (there - here) : there;
      options.bytes[w] = matrix.bytes[i][w];
    }
  };
  Relaxation relaxed = relax(knapsack, target_bytes);
  if (relaxed.bytes < target_bytes) spend_left_over(knapsack, relaxed.plan, target_bytes - relaxed.bytes);
  return relaxed.plan;
}

BitPlan swap_bits(const Choices& choices, const BitPlan& plan, std::uint64_t target_bytes, std::int64_t count,
                  const MoveLimits& limits) {
  BitPlan result = plan;
  const std::vector<Move> raises = single_steps(choices, plan, true, limits);
  const std::vector<Move> lowers = single_steps(choices, plan, false, limits);
  std::int64_t left = static_cast<std::int64_t>(target_bytes) - static_cast<std::int64_t>(bytes_of_plan(choices, plan));
  std::int64_t moved = 0;
  auto payment = lowers.begin();
  const auto is_moved = [&](const Move& move) {
    return result.widths[move.matrix][move.block] != plan.widths[move.matrix][move.block];
  };
  for (const Move& raise : raises) {
    if (moved >= count) break;
    if (is_moved(raise)) continue;  // it has paid for another
    auto paid_until = payment;
    std::int64_t freed = left;
    double cost = 0;
    for (; freed < raise.bytes && paid_until != lowers.end(); ++paid_until) {
      const Move& lower = *paid_until;
      if (is_moved(lower) || (lower.matrix == raise.matrix && lower.block == raise.block)) continue;
      freed += lower.bytes;
      cost += lower.value * static_cast<double>(lower.bytes);
    }
    const bool pays = cost < raise.value * static_cast<double>(raise.bytes);
    if (freed < raise.bytes || (!pays && moved > 0)) break;
    for (; payment != paid_until; ++payment) {
      if (is_moved(*payment) || (payment->matrix == raise.matrix && payment->block == raise.block)) continue;
      result.widths[payment->matrix][payment->block] = payment->width;
    }
    result.widths[raise.matrix][raise.block] = raise.width;
    left = freed - raise.bytes;
    ++moved;
  }
  return result;
}

}  // namespace scalebits
