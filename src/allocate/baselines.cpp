#include "allocate/baselines.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace scalebits {
namespace {

std::uint8_t nearest_width(const MatrixChoices& matrix, int width) {
  return static_cast<std::uint8_t>(std::clamp(width, matrix.min_width, matrix.max_width));
}

BitPlan uniform_plan(const Choices& choices, int width) {
  BitPlan plan;
  for (const MatrixChoices& matrix : choices)
    plan.widths.emplace_back(matrix.bytes.size(), nearest_width(matrix, width));
  return plan;
}

void check(const Choices& choices, const std::vector<std::vector<double>>& salience) {
  if (salience.size() != choices.size())
    fail_input("saliences are of {} matrices, the choices of {}", salience.size(), choices.size());
  for (std::size_t m = 0; m < salience.size(); ++m) {
    if (salience[m].size() != choices[m].bytes.size())
      fail_input("matrix {}: saliences of {} blocks, choices of {}", m, salience[m].size(), choices[m].bytes.size());
    for (std::size_t i = 0; i < salience[m].size(); ++i)
      if (!(salience[m][i] >= 0 && std::isfinite(salience[m][i])))
        fail_input("matrix {}, block {}: saliences must be finite and not negative, found {}", m, i, salience[m][i]);
  }
}

}  // namespace

std::vector<std::uint64_t> bytes_at_width(const Choices& choices, int width) {
  std::vector<std::uint64_t> bytes;
  for (const MatrixChoices& matrix : choices) {
    bytes.push_back(0);
    for (const auto& block : matrix.bytes) bytes.back() += block[nearest_width(matrix, width)];
  }
  return bytes;
}

int widest_uniform_width(const Choices& choices, std::uint64_t target_bytes) {
  for (int width = 8;; --width) {
    const std::vector<std::uint64_t> bytes = bytes_at_width(choices, width);
    const std::uint64_t total = std::reduce(bytes.begin(), bytes.end());
    if (total <= target_bytes) return width;
    if (width == 0) check_feasible(total, target_bytes);
  }
}

BitPlan allocate_uniform(const Choices& choices, std::uint64_t target_bytes) {
  check_bytes(choices);
  return uniform_plan(choices, widest_uniform_width(choices, target_bytes));
}

BitPlan allocate_fisher_quantile(const Choices& choices, const std::vector<std::vector<double>>& salience,
                                 std::uint64_t target_bytes) {
  check_bytes(choices);
  check(choices, salience);
  const int width = widest_uniform_width(choices, target_bytes);
  BitPlan plan = uniform_plan(choices, width);
  struct Raise {
    double salience;
    std::uint32_t matrix, block;
  };
  std::vector<Raise> raises;
  for (std::size_t m = 0; m < choices.size(); ++m) {
    if (nearest_width(choices[m], width + 1) == nearest_width(choices[m], width)) continue;
    for (std::size_t i = 0; i < salience[m].size(); ++i)
      raises.push_back({salience[m][i], static_cast<std::uint32_t>(m), static_cast<std::uint32_t>(i)});
  }
  std::stable_sort(raises.begin(), raises.end(),
                   [](const Raise& a, const Raise& b) { return a.salience > b.salience; });
  std::uint64_t left = target_bytes - bytes_of_plan(choices, plan);
  for (const Raise& raise : raises) {
    std::uint8_t& bits = plan.widths[raise.matrix][raise.block];
    const auto& bytes = choices[raise.matrix].bytes[raise.block];
    const std::uint64_t more = bytes[bits + 1u] - bytes[bits];
    if (more > left) continue;
    ++bits;
    left -= more;
  }
  return plan;
}

OptimalityBound allocate_per_tensor(const Choices& choices, std::uint64_t target_bytes) {
  const Knapsack blocks = knapsack_of(choices);
  std::vector<BlockOptions> whole(choices.size());
  Knapsack matrices;
  BlockOptions block;
  for (std::size_t m = 0; m < choices.size(); ++m) {
    whole[m].low = choices[m].min_width;
    whole[m].high = choices[m].max_width;
    for (std::size_t i = 0; i < blocks.blocks[m]; ++i) {
      blocks.options(m, i, block);
      for (std::size_t w = 0; w <= 8; ++w) {
        whole[m].cost[w] += block.cost[w];
        whole[m].bytes[w] += block.bytes[w];
      }
    }
    matrices.blocks.push_back(blocks.blocks[m] > 0 ? 1 : 0);
  }
  matrices.options = [&](std::size_t m, std::size_t, BlockOptions& options) { options = whole[m]; };
  OptimalityBound result = solve_exactly(matrices, target_bytes, 1 << 14);
  for (std::size_t m = 0; m < choices.size(); ++m)
    if (blocks.blocks[m] > 0) result.plan.widths[m].resize(blocks.blocks[m], result.plan.widths[m][0]);
  return result;
}

}  // namespace scalebits
