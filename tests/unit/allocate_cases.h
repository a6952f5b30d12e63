// Random tables for the tests of the allocators: small enough to try every plan, odd enough to find what a formula for
// well-behaved losses would miss.
#pragma once

#include "allocate/allocation.h"
#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace scalebits {

enum class Costs { convex, noisy, any, ties, zero };
enum class Bytes { blocks, any };  // as of 64x64 and 64x32 blocks; or not falling, else anything, zero included

struct CaseShape {
  std::size_t matrices = 3, blocks = 3;  // at most; matrices may have none
  int widths = 9;                        // at most this many per matrix
  Costs costs = Costs::convex;
  Bytes bytes = Bytes::blocks;
};

inline Choices random_choices(const CaseShape& shape, std::uint64_t seed) {
  const CounterRng rng(seed);
  std::uint64_t draw = 0;
  const auto below = [&](std::size_t bound) { return static_cast<int>(rng.below(draw++, bound)); };
  Choices choices;
  for (std::size_t m = 0; m < shape.matrices; ++m) {
    MatrixChoices matrix;
    matrix.min_width = below(std::size_t(10 - shape.widths));
    matrix.max_width = std::min(8, matrix.min_width + below(std::size_t(shape.widths)));
    const int blocks = m == 0 ? static_cast<int>(shape.blocks) : below(shape.blocks + 1);
    for (int i = 0; i < blocks; ++i) {
      const double scale = std::exp(2 * (2 * rng.uniform(draw++) - 1));
      const auto weights = static_cast<std::uint32_t>(i % 3 == 2 ? 256 : 512);
      WidthScores cost;
      std::array<std::uint32_t, 9> bytes;
      for (std::size_t b = 0; b <= 8; ++b) {
        const double smooth = scale * std::exp2(-2.0 * double(b)), noise = rng.uniform(draw++);
        cost[b] = static_cast<float>(shape.costs == Costs::convex  ? smooth
                                     : shape.costs == Costs::noisy ? smooth * (0.3 + 1.4 * noise)
                                     : shape.costs == Costs::any   ? noise
                                     : shape.costs == Costs::ties  ? std::floor(4 * noise)
                                                                   : 0.0);
        if (shape.bytes == Bytes::blocks) {
          bytes[b] = b == 0 ? 0 : static_cast<std::uint32_t>(b) * weights + 112;
        } else {
          bytes[b] = (b == 0 ? 0 : bytes[b - 1]) + static_cast<std::uint32_t>(below(5));
        }
      }
      matrix.cost.push_back(cost);
      matrix.bytes.push_back(bytes);
    }
    choices.push_back(std::move(matrix));
  }
  return choices;
}

/// All of these, in turn.
inline CaseShape shape_of(std::uint64_t seed, CaseShape shape = {}) {
  shape.costs = static_cast<Costs>(seed % 5);
  shape.bytes = static_cast<Bytes>(seed / 5 % 2);
  return shape;
}

inline double total_cost(const Choices& choices, const BitPlan& plan) {
  double cost = 0;
  for (std::size_t m = 0; m < choices.size(); ++m)
    for (std::size_t i = 0; i < choices[m].cost.size(); ++i) cost += choices[m].cost[i][plan.widths[m][i]];
  return cost;
}

/// Every block as narrow (or as wide) as its matrix's range lets it.
inline BitPlan extreme_plan(const Choices& choices, bool widest) {
  BitPlan plan;
  for (const MatrixChoices& matrix : choices)
    plan.widths.emplace_back(matrix.bytes.size(),
                             static_cast<std::uint8_t>(widest ? matrix.max_width : matrix.min_width));
  return plan;
}

/// Between the narrowest plan's bytes and a little over the widest's.
inline std::uint64_t random_target(const Choices& choices, std::uint64_t seed) {
  const std::uint64_t low = bytes_of_plan(choices, extreme_plan(choices, false)),
                      high = bytes_of_plan(choices, extreme_plan(choices, true));
  return low + CounterRng(seed, 9).below(0, high - low + 2 + (high - low) / 8);
}

/// Calls visit(plan) for every plan there is.
inline void each_plan(const Choices& choices, const std::function<void(const BitPlan&)>& visit) {
  BitPlan plan = extreme_plan(choices, false);
  for (;;) {
    visit(plan);
    std::size_t m = 0, i = 0;
    for (;; ++i) {
      while (m < choices.size() && i == plan.widths[m].size()) {
        ++m;
        i = 0;
      }
      if (m == choices.size()) return;
      if (plan.widths[m][i] < choices[m].max_width) break;
      plan.widths[m][i] = static_cast<std::uint8_t>(choices[m].min_width);
    }
    ++plan.widths[m][i];
  }
}

/// The cheapest plan's cost by trying all of them; infinite where none fits.
inline double brute_force_cost(const Choices& choices, std::uint64_t target) {
  double best = std::numeric_limits<double>::infinity();
  each_plan(choices, [&](const BitPlan& plan) {
    if (bytes_of_plan(choices, plan) <= target) best = std::min(best, total_cost(choices, plan));
  });
  return best;
}

}  // namespace scalebits
