#include "allocate/optimum.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace scalebits {
namespace {

/// States looked at before the search gives up proving: a second or three.
constexpr std::size_t kStateLimit = 20'000'000;

/// A block that may leave the relaxation's width. Reduced cost of a width: cost plus price times bytes, beyond what its
/// best width has; the gap between a plan and the bound is the sum of them plus the price of the bytes it leaves.
struct Uncertain {
  double least;  // reduced cost of the nearest other width
  std::uint32_t matrix, block;
};

/// One deviation from the relaxation's plan, on top of those of `parent`.
struct Node {
  double reduced = 0;      // reduced cost of all of them
  std::int64_t bytes = 0;  // that they add
  std::uint32_t parent = 0, item = 0;
  std::uint8_t width = 0;
};

double reduced_cost(const BlockOptions& options, std::size_t from, std::size_t to, double price) {
  const double bytes = static_cast<double>(options.bytes[to]) - static_cast<double>(options.bytes[from]);
  return std::max(0.0, options.cost[to] - options.cost[from] + price * bytes);
}

/// What `to` costs less than `from`, summed over the blocks that differ: few, so that the sum is good to the last
/// digits.
double saved_cost(const Knapsack& knapsack, const BitPlan& from, const BitPlan& to) {
  double saved = 0;
  BlockOptions options;
  for (std::size_t m = 0; m < knapsack.blocks.size(); ++m)
    for (std::size_t i = 0; i < knapsack.blocks[m]; ++i) {
      if (from.widths[m][i] == to.widths[m][i]) continue;
      knapsack.options(m, i, options);
      saved += options.cost[from.widths[m][i]] - options.cost[to.widths[m][i]];
    }
  return saved;
}

/// The largest sum of bytes up to the target that any plan could have, as far as common divisors tell.
std::uint64_t reachable_bytes(const Knapsack& knapsack, std::uint64_t target_bytes) {
  std::uint64_t narrowest = 0, divisor = 0;
  BlockOptions options;
  for (std::size_t m = 0; m < knapsack.blocks.size(); ++m)
    for (std::size_t i = 0; i < knapsack.blocks[m]; ++i) {
      knapsack.options(m, i, options);
      const std::uint64_t low = options.bytes[static_cast<std::size_t>(options.low)];
      narrowest += low;
      for (int w = options.low + 1; w <= options.high && divisor != 1; ++w)
        divisor = std::gcd(divisor, options.bytes[static_cast<std::size_t>(w)] - low);
    }
  check_feasible(narrowest, target_bytes);
  return divisor == 0 ? narrowest : narrowest + (target_bytes - narrowest) / divisor * divisor;
}

class DynamicProgram {
 public:
  DynamicProgram(const Knapsack& knapsack, const Relaxation& relaxed, std::uint64_t left, double gap,
                 std::size_t frontier_limit)
      : knapsack_(knapsack), relaxed_(relaxed), left_(static_cast<std::int64_t>(left)), gap_(gap),
        frontier_limit_(frontier_limit) {}

  void run() {
    collect_uncertain();
    nodes_.emplace_back();
    frontier_ = {0};
    for (std::uint32_t item = 0; item < items_.size() && items_[item].least < gap_; ++item) {
      if (states_seen_ > kStateLimit) {
        unproven_ = std::min(unproven_, items_[item].least);
        break;
      }
      branch(item);
    }
  }

  bool improved() const { return best_ != 0; }
  double proven_gap() const { return std::min(gap_, unproven_); }
  bool optimal() const { return unproven_ >= gap_; }

  std::uint64_t left() const { return static_cast<std::uint64_t>(left_ - nodes_[best_].bytes); }
  BitPlan plan() const {
    BitPlan plan = relaxed_.plan;
    for (std::uint32_t at = best_; at != 0; at = nodes_[at].parent)
      plan.widths[items_[nodes_[at].item].matrix][items_[nodes_[at].item].block] = nodes_[at].width;
    return plan;
  }

 private:
  static constexpr std::uint32_t kNew = std::numeric_limits<std::uint32_t>::max();
  struct State {
    Node node;
    std::uint32_t at;  // in nodes_, or kNew
  };

  void collect_uncertain() {
    BlockOptions options;
    for (std::size_t m = 0; m < knapsack_.blocks.size(); ++m)
      for (std::size_t i = 0; i < knapsack_.blocks[m]; ++i) {
        knapsack_.options(m, i, options);
        const std::size_t here = relaxed_.plan.widths[m][i];
        double least = INFINITY;
        for (auto w = static_cast<std::size_t>(options.low); w <= static_cast<std::size_t>(options.high); ++w)
          if (w != here) least = std::min(least, reduced_cost(options, here, w, relaxed_.price));
        if (least < gap_) items_.push_back({least, static_cast<std::uint32_t>(m), static_cast<std::uint32_t>(i)});
      }
    std::stable_sort(items_.begin(), items_.end(),
                     [](const Uncertain& a, const Uncertain& b) { return a.least < b.least; });
  }

  /// The frontier with and without each other width of one block, without states that another makes needless.
  void branch(std::uint32_t item) {
    BlockOptions options;
    knapsack_.options(items_[item].matrix, items_[item].block, options);
    const std::size_t here = relaxed_.plan.widths[items_[item].matrix][items_[item].block];
    states_.clear();
    for (const std::uint32_t at : frontier_) states_.push_back({nodes_[at], at});
    for (auto w = static_cast<std::size_t>(options.low); w <= static_cast<std::size_t>(options.high); ++w) {
      const double reduced = reduced_cost(options, here, w, relaxed_.price);
      if (w == here || reduced >= gap_) continue;
      const auto bytes = static_cast<std::int64_t>(options.bytes[w]) - static_cast<std::int64_t>(options.bytes[here]);
      for (const std::uint32_t at : frontier_)
        states_.push_back(
            {{nodes_[at].reduced + reduced, nodes_[at].bytes + bytes, at, item, static_cast<std::uint8_t>(w)}, kNew});
    }
    states_seen_ += states_.size();
    const auto cost = [&](const Node& node) { return node.reduced - relaxed_.price * static_cast<double>(node.bytes); };
    std::sort(states_.begin(), states_.end(), [&](const State& a, const State& b) {
      return a.node.bytes != b.node.bytes ? a.node.bytes < b.node.bytes : a.node.reduced < b.node.reduced;
    });
    double cheapest = INFINITY;
    std::erase_if(states_, [&](const State& state) {
      if (state.node.reduced >= gap_ || cost(state.node) >= cheapest) return true;
      cheapest = cost(state.node);
      return false;
    });
    if (states_.size() > frontier_limit_) {
      const auto kept = states_.begin() + static_cast<std::ptrdiff_t>(frontier_limit_);
      std::nth_element(states_.begin(), kept, states_.end(),
                       [](const State& a, const State& b) { return a.node.reduced < b.node.reduced; });
      unproven_ = std::min(unproven_, kept->node.reduced);
      states_.erase(kept, states_.end());
    }
    frontier_.clear();
    for (State& state : states_) {
      if (state.at == kNew) keep(state);
      frontier_.push_back(state.at);
    }
  }

  void keep(State& state) {
    state.at = static_cast<std::uint32_t>(nodes_.size());
    nodes_.push_back(state.node);
    const std::int64_t left = left_ - state.node.bytes;
    if (left < 0) return;
    const double gap = state.node.reduced + relaxed_.price * static_cast<double>(left);
    if (gap >= gap_) return;
    gap_ = gap;
    best_ = state.at;
  }

  const Knapsack& knapsack_;
  const Relaxation& relaxed_;
  std::int64_t left_;           // bytes that the relaxation's plan leaves
  double gap_;                  // between the bound and the best plan so far
  double unproven_ = INFINITY;  // no plan with a smaller gap was passed over
  std::size_t frontier_limit_;
  std::vector<Uncertain> items_;
  std::vector<Node> nodes_;
  std::vector<std::uint32_t> frontier_;
  std::vector<State> states_;
  std::size_t states_seen_ = 0;
  std::uint32_t best_ = 0;
};

}  // namespace

OptimalityBound optimality_bound(const Choices& choices, std::uint64_t target_bytes) {
  Relaxation relaxed = relax(knapsack_of(choices), target_bytes);
  check_feasible(relaxed.bytes, target_bytes);
  return {relaxed.lower_bound, std::move(relaxed.plan), relaxed.cost};
}

OptimalityBound solve_exactly(const Knapsack& knapsack, std::uint64_t target_bytes, std::size_t frontier_limit) {
  target_bytes = reachable_bytes(knapsack, target_bytes);
  const Relaxation relaxed = relax(knapsack, target_bytes);
  const std::uint64_t left = target_bytes - relaxed.bytes;
  OptimalityBound result{.plan = relaxed.plan};
  if (left > 0) spend_left_over(knapsack, result.plan, left);
  const double gap = relaxed.price * static_cast<double>(left) - saved_cost(knapsack, relaxed.plan, result.plan);
  DynamicProgram search(knapsack, relaxed, left, gap, frontier_limit);
  search.run();
  if (search.improved()) {
    result.plan = search.plan();
    spend_left_over(knapsack, result.plan, search.left());  // nothing fits into it, unless states ran out
  }
  result.plan_cost = cost_of_plan(knapsack, result.plan);
  result.lower_bound = search.optimal() ? result.plan_cost : relaxed.lower_bound + search.proven_gap();
  return result;
}

}  // namespace scalebits
