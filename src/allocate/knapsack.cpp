#include "allocate/knapsack.h"

#include "core/error.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace scalebits {
namespace {

/// From one corner of a hull to the next.
struct Step {
  double gain;  // cost saved per byte
  std::uint64_t bytes;
  std::uint32_t matrix, block;
  std::uint8_t width;  // after it
};

/// Ties go to the first block, so that plans do not depend on the sorting.
bool better(const Step& a, const Step& b) {
  if (a.gain != b.gain) return a.gain > b.gain;
  return a.matrix != b.matrix ? a.matrix < b.matrix : a.block < b.block;
}

/// Sixteenths of an octave, rising with the gain: a positive double's leading bits.
constexpr std::size_t kBuckets = 1 << 15;
std::size_t bucket_of(double gain) { return static_cast<std::size_t>(std::bit_cast<std::uint64_t>(gain) >> 48); }

/// Calls visit(matrix, block, options) for each block.
template <typename Visit>
void each_block(const Knapsack& knapsack, Visit&& visit) {
  BlockOptions options;
  for (std::size_t m = 0; m < knapsack.blocks.size(); ++m)
    for (std::size_t i = 0; i < knapsack.blocks[m]; ++i) {
      knapsack.options(m, i, options);
      visit(m, i, options);
    }
}

std::uint64_t step_bytes(const BlockOptions& options, const Hull& hull, int k) {
  return options.bytes[hull.width[static_cast<std::size_t>(k)]] -
         options.bytes[hull.width[static_cast<std::size_t>(k - 1)]];
}

}  // namespace

void check_bytes(const Choices& choices) {
  for (std::size_t m = 0; m < choices.size(); ++m) {
    const MatrixChoices& matrix = choices[m];
    if (matrix.min_width < 0 || matrix.max_width > 8 || matrix.min_width > matrix.max_width)
      fail_input("matrix {}: widths must lie within 0 to 8, found {} to {}", m, matrix.min_width, matrix.max_width);
    for (std::size_t i = 0; i < matrix.bytes.size(); ++i)
      for (auto w = static_cast<std::size_t>(matrix.min_width); w < static_cast<std::size_t>(matrix.max_width); ++w)
        if (matrix.bytes[i][w + 1] < matrix.bytes[i][w])
          fail_input("matrix {}, block {}: bytes must not fall with the width, found {} at {} bits after {}", m, i,
                     matrix.bytes[i][w + 1], w + 1, matrix.bytes[i][w]);
  }
}

Knapsack knapsack_of(const Choices& choices) {
  check_bytes(choices);
  Knapsack knapsack;
  for (std::size_t m = 0; m < choices.size(); ++m) {
    const MatrixChoices& matrix = choices[m];
    if (matrix.cost.size() != matrix.bytes.size())
      fail_input("matrix {}: costs of {} blocks beside bytes of {}", m, matrix.cost.size(), matrix.bytes.size());
    for (std::size_t i = 0; i < matrix.cost.size(); ++i)
      for (auto w = static_cast<std::size_t>(matrix.min_width); w <= static_cast<std::size_t>(matrix.max_width); ++w)
        if (const float cost = matrix.cost[i][w]; !(cost >= 0 && cost <= std::numeric_limits<float>::max()))
          fail_input("matrix {}, block {}: costs must be finite and not negative, found {} at {} bits", m, i, cost, w);
    knapsack.blocks.push_back(matrix.cost.size());
  }
  knapsack.options = [&choices](std::size_t m, std::size_t i, BlockOptions& options) {
    const MatrixChoices& matrix = choices[m];
    options.low = matrix.min_width;
    options.high = matrix.max_width;
    std::copy(matrix.cost[i].begin(), matrix.cost[i].end(), options.cost.begin());
    std::copy(matrix.bytes[i].begin(), matrix.bytes[i].end(), options.bytes.begin());
  };
  return knapsack;
}

Hull lower_hull(const BlockOptions& options) {
  Hull hull;
  const auto push = [&](int width, double gain) {
    hull.width[static_cast<std::size_t>(hull.size)] = static_cast<std::uint8_t>(width);
    hull.gain[static_cast<std::size_t>(hull.size++)] = gain;
  };
  push(options.low, 0);
  for (int width = options.low + 1; width <= options.high; ++width) {
    const auto w = static_cast<std::size_t>(width);
    if (!(options.cost[w] < options.cost[hull.width[static_cast<std::size_t>(hull.size - 1)]])) continue;
    double gain = 0;
    for (; hull.size > 0; --hull.size) {
      const auto last = static_cast<std::size_t>(hull.size - 1);
      const std::uint64_t bytes = options.bytes[w] - options.bytes[hull.width[last]];
      if (bytes == 0) continue;
      gain = (options.cost[hull.width[last]] - options.cost[w]) / static_cast<double>(bytes);
      if (last == 0 || gain < hull.gain[last]) break;
    }
    push(width, gain);
  }
  return hull;
}

Relaxation relax(const Knapsack& knapsack, std::uint64_t target_bytes) {
  Relaxation result;
  std::vector<std::uint64_t> bucket_bytes(kBuckets);
  each_block(knapsack, [&](std::size_t, std::size_t, const BlockOptions& options) {
    const Hull hull = lower_hull(options);
    result.bytes += options.bytes[hull.width[0]];
    for (int k = 1; k < hull.size; ++k)
      bucket_bytes[bucket_of(hull.gain[static_cast<std::size_t>(k)])] += step_bytes(options, hull, k);
  });
  const bool feasible = result.bytes <= target_bytes;
  // Buckets above `split` fit as a whole, those below not at all.
  std::size_t split = kBuckets;
  while (feasible && split > 0 && result.bytes + bucket_bytes[split - 1] <= target_bytes)
    result.bytes += bucket_bytes[--split];
  const bool everything_fits = split == 0;
  split -= everything_fits ? 0 : 1;

  std::vector<Step> steps;  // of the bucket at the price
  for (const std::size_t blocks : knapsack.blocks) result.plan.widths.emplace_back(blocks);
  each_block(knapsack, [&](std::size_t m, std::size_t i, const BlockOptions& options) {
    const Hull hull = lower_hull(options);
    std::uint8_t width = hull.width[0];
    for (int k = 1; feasible && k < hull.size; ++k) {
      const auto at = static_cast<std::size_t>(k);
      const std::size_t bucket = bucket_of(hull.gain[at]);
      if (bucket > split || everything_fits) {
        width = hull.width[at];
      } else if (bucket == split) {
        steps.push_back({hull.gain[at], step_bytes(options, hull, k), static_cast<std::uint32_t>(m),
                         static_cast<std::uint32_t>(i), hull.width[at]});
      } else {
        break;
      }
    }
    result.plan.widths[m][i] = width;
    result.cost += options.cost[width];
  });
  std::sort(steps.begin(), steps.end(), better);
  for (const Step& step : steps) {
    if (result.bytes + step.bytes > target_bytes) {
      result.price = step.gain;
      break;
    }
    result.plan.widths[step.matrix][step.block] = step.width;
    result.bytes += step.bytes;
    result.cost -= step.gain * static_cast<double>(step.bytes);
  }
  result.lower_bound =
      feasible ? result.cost - result.price * static_cast<double>(target_bytes - result.bytes) : INFINITY;
  return result;
}

void spend_left_over(const Knapsack& knapsack, BitPlan& plan, std::uint64_t left) {
  const Knapsack raises{knapsack.blocks, [&](std::size_t m, std::size_t i, BlockOptions& options) {
                          knapsack.options(m, i, options);
                          options.low = plan.widths[m][i];
                          const std::uint64_t here = options.bytes[static_cast<std::size_t>(options.low)];
                          const auto more = [&](int width) {
                            return options.bytes[static_cast<std::size_t>(width)] - here;
                          };
                          while (more(options.high) > left) --options.high;
                          for (int width = options.high; width >= options.low; --width)
                            options.bytes[static_cast<std::size_t>(width)] = more(width);
                        }};
  for (;;) {  // what did not fit as a step may fit by halves, and smaller steps may fit behind it
    Relaxation raised = relax(raises, left);
    if (raised.plan == plan) return;
    plan = std::move(raised.plan);
    left -= raised.bytes;
  }
}

double cost_of_plan(const Knapsack& knapsack, const BitPlan& plan) {
  double cost = 0;
  each_block(knapsack, [&](std::size_t m, std::size_t i, const BlockOptions& options) {
    cost += options.cost[plan.widths[m][i]];
  });
  return cost;
}

void check_feasible(std::uint64_t narrowest_bytes, std::uint64_t target_bytes) {
  if (narrowest_bytes > target_bytes)
    fail(ErrorKind::infeasible_budget, "the blocks cannot be stored in {} bytes: the narrowest plan takes {}",
         target_bytes, narrowest_bytes);
}

}  // namespace scalebits
