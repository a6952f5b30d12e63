#include "allocate/baq.h"

#include "allocate/baselines.h"
#include "allocate/knapsack.h"
#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace scalebits {
namespace {

bool is_loss(double c) { return c >= 0 && std::isfinite(c); }

void check(std::span<const double> c, std::span<const std::int64_t> weights) {
  SCALEBITS_ASSERT(c.size() == weights.size());
  for (std::size_t t = 0; t < c.size(); ++t) {
    if (!is_loss(c[t])) fail_input("block {}: BAQ's c must be finite and not negative, found {}", t, c[t]);
    if (weights[t] <= 0) fail_input("block {}: a block needs weights, found {}", t, weights[t]);
  }
}

/// Level θ at which Σ n clamp(a − θ, low, high) = total; a = ½ log2(c/n), −∞ where c is 0. The sum falls with θ in
/// straight pieces, so that Newton's method ends on the root's own piece; bisection keeps it between what is known.
double water_level(const std::vector<double>& a, std::span<const std::int64_t> weights, double total, double low,
                   double high) {
  double lowest = INFINITY, highest = -INFINITY;
  for (const double value : a) {
    if (!std::isfinite(value)) continue;
    lowest = std::min(lowest, value);
    highest = std::max(highest, value);
  }
  double from = lowest - high, to = highest - low;  // all blocks at `high`; all at `low`
  double level = 0.5 * (from + to);
  for (int iteration = 0; iteration < 200; ++iteration) {
    double held = 0, free = 0, free_weights = 0;  // Σ n R of blocks at a limit; Σ n a and Σ n of the others
    for (std::size_t t = 0; t < a.size(); ++t) {
      const double bits = a[t] - level, n = static_cast<double>(weights[t]);
      if (bits > low && bits < high) {
        free += n * a[t];
        free_weights += n;
      } else {
        held += n * (bits > low ? high : low);
      }
    }
    const double sum = held + free - level * free_weights;
    if (sum == total) break;
    (sum > total ? from : to) = level;
    double next = (held + free - total) / free_weights;  // this piece's root; not finite on a flat one
    if (next == level) break;
    if (!(next > from && next < to)) next = 0.5 * (from + to);
    if (next == from || next == to) break;
    level = next;
  }
  return level;
}

/// Losses scaled so that the largest is 1: sums and powers stay within range.
double scale_of(const std::vector<std::vector<double>>& c) {
  double largest = 0;
  for (const auto& matrix : c)
    for (const double value : matrix) largest = std::max(largest, value);
  return largest > 0 ? largest : 1;
}

void check(const Choices& choices, const std::vector<std::vector<double>>& c) {
  check_bytes(choices);
  if (c.size() != choices.size()) fail_input("BAQ's c is of {} matrices, the choices of {}", c.size(), choices.size());
  for (std::size_t m = 0; m < c.size(); ++m) {
    if (c[m].size() != choices[m].bytes.size())
      fail_input("matrix {}: BAQ's c is of {} blocks, the choices of {}", m, c[m].size(), choices[m].bytes.size());
    for (std::size_t i = 0; i < c[m].size(); ++i)
      if (!is_loss(c[m][i]))
        fail_input("matrix {}, block {}: BAQ's c must be finite and not negative, found {}", m, i, c[m][i]);
  }
}

/// What each matrix may take so that all have the same mean width, as far as their ranges let them, and together no
/// more than the target. Bytes grow evenly between two neighbouring widths.
std::vector<std::uint64_t> even_shares(const Choices& choices, std::uint64_t target_bytes) {
  const int width = widest_uniform_width(choices, target_bytes);
  const std::vector<std::uint64_t> from = bytes_at_width(choices, width), to = bytes_at_width(choices, width + 1);
  const std::uint64_t spent = std::reduce(from.begin(), from.end()), more = std::reduce(to.begin(), to.end()) - spent;
  const double part =
      more == 0 ? 0 : std::min(1.0, static_cast<double>(target_bytes - spent) / static_cast<double>(more));
  std::vector<std::uint64_t> shares = from;
  for (std::size_t m = 0; m < shares.size(); ++m)
    shares[m] += static_cast<std::uint64_t>(part * static_cast<double>(to[m] - from[m]));
  return shares;
}

}  // namespace

std::vector<double> water_fill(std::span<const double> c, std::span<const std::int64_t> weights, double mean_bits,
                               double min_bits, double max_bits) {
  check(c, weights);
  if (!(mean_bits >= min_bits && mean_bits <= max_bits))
    fail(ErrorKind::infeasible_budget, "a mean of {} bits is not within {} to {}", mean_bits, min_bits, max_bits);
  std::vector<double> widths(c.size());
  double all = 0, indifferent = 0;  // weights; of those, with c = 0
  for (std::size_t t = 0; t < c.size(); ++t) {
    widths[t] = 0.5 * (std::log2(c[t]) - std::log2(static_cast<double>(weights[t])));
    all += static_cast<double>(weights[t]);
    indifferent += c[t] > 0 ? 0.0 : static_cast<double>(weights[t]);
  }
  const double total = mean_bits * all, most_needed = max_bits * (all - indifferent) + min_bits * indifferent;
  if (total >= most_needed) {
    const double shared = indifferent > 0 ? (total - max_bits * (all - indifferent)) / indifferent : 0;
    for (std::size_t t = 0; t < c.size(); ++t) widths[t] = c[t] > 0 ? max_bits : shared;
    return widths;
  }
  const double level = water_level(widths, weights, total, min_bits, max_bits);
  for (double& width : widths) width = std::clamp(width - level, min_bits, max_bits);
  return widths;
}

double water_filling_gain(std::span<const double> c, std::span<const std::int64_t> weights) {
  check(c, weights);
  const double largest = c.empty() ? 0 : *std::max_element(c.begin(), c.end());
  if (largest == 0) return 1;
  double n = 0, sum = 0, logs = 0;
  for (std::size_t t = 0; t < c.size(); ++t) {
    const double count = static_cast<double>(weights[t]), scaled = c[t] / largest;
    n += count;
    sum += scaled;
    logs += count * (std::log2(scaled) - std::log2(count));
  }
  return std::min(1.0, std::exp2(logs / n) / (sum / n));
}

BitPlan allocate_baq(const Choices& choices, const std::vector<std::vector<double>>& c, std::uint64_t target_bytes,
                     BaqScope scope) {
  check(choices, c);
  const double scale = scale_of(c);
  const auto options_of = [&](std::size_t m, std::size_t i, BlockOptions& options) {
    const MatrixChoices& matrix = choices[m];
    options.low = matrix.min_width;
    options.high = matrix.max_width;
    std::copy(matrix.bytes[i].begin(), matrix.bytes[i].end(), options.bytes.begin());
    double loss = c[m][i] / scale;
    for (double& cost : options.cost) cost = std::exchange(loss, 0.25 * loss);
  };
  Knapsack whole{{}, options_of};
  for (const auto& matrix : c) whole.blocks.push_back(matrix.size());
  BitPlan plan;
  if (scope == BaqScope::model) {
    Relaxation relaxed = relax(whole, target_bytes);
    check_feasible(relaxed.bytes, target_bytes);
    plan = std::move(relaxed.plan);
  } else {
    const std::vector<std::uint64_t> shares = even_shares(choices, target_bytes);
    std::uint64_t over = 0;  // too few bytes for a step inside a matrix: the next one has them
    for (std::size_t m = 0; m < choices.size(); ++m) {
      const Knapsack layer{{whole.blocks[m]},
                           [&](std::size_t, std::size_t i, BlockOptions& options) { options_of(m, i, options); }};
      Relaxation relaxed = relax(layer, shares[m] + over);
      over += shares[m] - relaxed.bytes;
      plan.widths.push_back(std::move(relaxed.plan.widths[0]));
    }
  }
  if (const std::uint64_t left = target_bytes - bytes_of_plan(choices, plan)) spend_left_over(whole, plan, left);
  return plan;
}

}  // namespace scalebits
