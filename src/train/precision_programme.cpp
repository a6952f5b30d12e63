#include "train/precision_programme.h"

#include "core/error.h"

#include <coin/Cbc_C_Interface.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <utility>

namespace scalebits {
namespace {

/// CBC takes rows as kept within 1e-7 or so; shares are of this order of exactness, too.
constexpr double kShareSlack = 1e-6;

/// The layers of one pipeline stage: no other constraint joins them to the rest, so it is a programme of its own.
struct Stage {
  int number = 0;
  std::vector<std::size_t> layers;
  double flops = 0, largest = 0;  // all operations; the most that can be FP4
  double wanted = 0;              // FP4 operations
};

void check(const PrecisionProgramme& programme) {
  const std::size_t count = programme.layers.size();
  if (count == 0 || programme.flops.size() != count ||
      (!programme.stages.empty() && programme.stages.size() != count) || !(programme.target_share >= 0))
    throw InternalError("precision programme: layers, operations and stages do not belong together");
  for (std::size_t layer = 0; layer < count; ++layer) {
    bool sound = !programme.layers[layer].empty() && programme.flops[layer] > 0;
    for (const PrecisionOption& option : programme.layers[layer])
      sound = sound && std::isfinite(option.cost) && option.fp4_flops >= 0 &&
              option.fp4_flops <= programme.flops[layer] * (1 + kShareSlack);
    if (!sound) throw InternalError(fmt::format("precision programme: layer {} has no sound options", layer));
  }
}

/// Of all the stage's FP4 operations; 0 unless they are whole numbers.
double common_divisor(const PrecisionProgramme& programme, const Stage& stage) {
  double divisor = 0;
  for (const std::size_t layer : stage.layers)
    for (const PrecisionOption& option : programme.layers[layer]) {
      if (option.fp4_flops != std::floor(option.fp4_flops) || option.fp4_flops > 0x1p53) return 0;
      for (double rest = option.fp4_flops; rest > 0;) std::swap(divisor = std::fmod(divisor, rest), rest);
    }
  return divisor;
}

std::vector<Stage> stages_of(const PrecisionProgramme& programme) {
  std::map<int, Stage> by_number;
  for (std::size_t layer = 0; layer < programme.layers.size(); ++layer) {
    const int number = programme.stages.empty() ? 0 : programme.stages[layer];
    Stage& stage = by_number[number];
    stage.number = number;
    stage.layers.push_back(layer);
    stage.flops += programme.flops[layer];
    double largest = 0;
    for (const PrecisionOption& option : programme.layers[layer]) largest = std::max(largest, option.fp4_flops);
    stage.largest += largest;
  }
  std::vector<Stage> stages;
  for (auto& [number, stage] : by_number) {
    if (programme.target_share > stage.largest / stage.flops + kShareSlack)
      fail(ErrorKind::infeasible_budget,
           "stage {}: wanted at least {:.4f} of the operations in FP4, feasible with these options is 0 to {:.4f}",
           number, programme.target_share, stage.largest / stage.flops);
    stage.wanted = std::min(programme.target_share * stage.flops, stage.largest);
    // Operations come in multiples of something, so no choice lies between two of them: without this the relaxation's
    // bound stays below every choice and the solver proves it away node by node.
    if (const double unit = common_divisor(programme, stage); unit > 0)
      stage.wanted = std::ceil(stage.wanted / unit - kShareSlack) * unit;
    stages.push_back(std::move(stage));
  }
  return stages;
}

/// One stage with its Lagrangian relaxation: an FP4 operation earns `price`, and each layer takes what is then
/// cheapest.
class StageProgramme {
 public:
  StageProgramme(const PrecisionProgramme& programme, const Stage& stage) : programme_(programme), stage_(stage) {}

  /// Options by layer of the stage, and the gap of PrecisionChoice.
  std::pair<std::vector<std::size_t>, double> solve() {
    // The largest price at which the relaxed choice still has too few FP4 operations, and the next that has enough.
    double low = 0, high = 0;
    if (fp4_of(relaxed(0)) < stage_.wanted) {
      for (high = steepest(); fp4_of(relaxed(high)) < stage_.wanted; high = 2 * high + 1)
        if (!std::isfinite(high)) throw InternalError("precision programme: no price reaches a feasible share");
      for (int i = 0; i < 200 && low < high; ++i) {
        const double middle = low + (high - low) / 2;
        if (middle <= low || middle >= high) break;
        (fp4_of(relaxed(middle)) < stage_.wanted ? low : high) = middle;
      }
    }
    std::vector<std::size_t> best = relaxed(high);
    improve(best);
    const double bound = lower_bound(high), gap = cost_of(best) - bound;
    // What the exact optimum cannot use: taking it costs more, even relaxed, than the choice in hand.
    std::vector<std::vector<std::size_t>> kept;
    bool open = false;
    for (std::size_t i = 0; i < stage_.layers.size(); ++i) {
      std::vector<std::size_t> options;
      double cheapest = std::numeric_limits<double>::infinity();
      for (std::size_t o = 0; o < options_of(i).size(); ++o) cheapest = std::min(cheapest, priced(i, o, high));
      for (std::size_t o = 0; o < options_of(i).size(); ++o)
        if (o == best[i] || priced(i, o, high) - cheapest <= gap) options.push_back(o);
      open = open || options.size() > 1;
      kept.push_back(std::move(options));
    }
    if (open && gap > kPrecisionGap * std::fabs(bound)) return solve_core(kept, best, bound);
    return {best, open ? gap : 0};
  }

 private:
  const std::vector<PrecisionOption>& options_of(std::size_t i) const { return programme_.layers[stage_.layers[i]]; }
  double priced(std::size_t i, std::size_t option, double price) const {
    return options_of(i)[option].cost - price * options_of(i)[option].fp4_flops;
  }
  std::vector<std::size_t> relaxed(double price) const {
    std::vector<std::size_t> choice(stage_.layers.size(), 0);
    for (std::size_t i = 0; i < choice.size(); ++i)
      for (std::size_t o = 1; o < options_of(i).size(); ++o) {
        const double step = priced(i, o, price) - priced(i, choice[i], price);
        if (step < 0 || (step == 0 && options_of(i)[o].fp4_flops > options_of(i)[choice[i]].fp4_flops)) choice[i] = o;
      }
    return choice;
  }
  double lower_bound(double price) const {
    double bound = price * stage_.wanted;
    const std::vector<std::size_t> choice = relaxed(price);
    for (std::size_t i = 0; i < choice.size(); ++i) bound += priced(i, choice[i], price);
    return bound;
  }
  double fp4_of(const std::vector<std::size_t>& choice) const {
    double sum = 0;
    for (std::size_t i = 0; i < choice.size(); ++i) sum += options_of(i)[choice[i]].fp4_flops;
    // Sums of shares may fall short of the whole by their rounding.
    return sum + kShareSlack * 1e-3 * stage_.flops;
  }
  double cost_of(const std::vector<std::size_t>& choice) const {
    double sum = 0;
    for (std::size_t i = 0; i < choice.size(); ++i) sum += options_of(i)[choice[i]].cost;
    return sum;
  }
  /// A price at which the dearest step between two options pays.
  double steepest() const {
    double slope = 1e-300;
    for (std::size_t i = 0; i < stage_.layers.size(); ++i)
      for (const PrecisionOption& a : options_of(i))
        for (const PrecisionOption& b : options_of(i))
          if (a.fp4_flops > b.fp4_flops) slope = std::max(slope, (a.cost - b.cost) / (a.fp4_flops - b.fp4_flops));
    return slope;
  }
  /// Changes one or two layers at a time, the best change first, while something gets cheaper and the share holds.
  void improve(std::vector<std::size_t>& choice) const {
    struct Move {
      std::size_t layer, option;
      double fp4, cost;  // differences to the present option
    };
    for (;;) {
      const double spare = fp4_of(choice) - stage_.wanted;
      std::vector<Move> moves;
      for (std::size_t i = 0; i < choice.size(); ++i) {
        const PrecisionOption& now = options_of(i)[choice[i]];
        for (std::size_t o = 0; o < options_of(i).size(); ++o)
          if (o != choice[i])
            moves.push_back({i, o, options_of(i)[o].fp4_flops - now.fp4_flops, options_of(i)[o].cost - now.cost});
      }
      std::sort(moves.begin(), moves.end(), [](const Move& a, const Move& b) { return a.fp4 > b.fp4; });
      // The cheapest of the first moves and the cheapest of another layer: partners for whoever needs so much FP4.
      std::vector<std::array<const Move*, 2>> partners(moves.size() + 1, {nullptr, nullptr});
      for (std::size_t m = 0; m < moves.size(); ++m) {
        auto [first, second] = partners[m];
        const Move* const move = &moves[m];
        if (first == nullptr || move->cost < first->cost) {
          if (first != nullptr && first->layer != move->layer) second = first;
          first = move;
        } else if (move->layer != first->layer && (second == nullptr || move->cost < second->cost)) {
          second = move;
        }
        partners[m + 1] = {first, second};
      }
      double best_gain = 0;
      const Move *best = nullptr, *best_partner = nullptr;
      for (const Move& move : moves) {
        if (move.fp4 >= -spare && -move.cost > best_gain) best_gain = -move.cost, best = &move, best_partner = nullptr;
        const auto enough = std::partition_point(moves.begin(), moves.end(),
                                                 [&](const Move& other) { return other.fp4 + move.fp4 >= -spare; });
        const auto [first, second] = partners[static_cast<std::size_t>(enough - moves.begin())];
        const Move* const partner = first != nullptr && first->layer == move.layer ? second : first;
        if (partner == nullptr || -move.cost - partner->cost <= best_gain) continue;
        best_gain = -move.cost - partner->cost, best = &move, best_partner = partner;
      }
      if (best_gain <= 1e-12 * std::fabs(cost_of(choice))) return;
      choice[best->layer] = best->option;
      if (best_partner != nullptr) choice[best_partner->layer] = best_partner->option;
    }
  }

  /// The integer programme over `kept` options; `best` is a feasible choice among them, `bound` what none can beat.
  std::pair<std::vector<std::size_t>, double> solve_core(const std::vector<std::vector<std::size_t>>& kept,
                                                         std::vector<std::size_t> best, double bound) const {
    // Layers that have one option left only shift the bound. Costs come in units of the largest difference left within
    // a layer, because the solver's tolerances are absolute.
    double wanted = stage_.wanted, unit = 0;
    std::vector<std::size_t> open;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (kept[i].size() == 1) {
        wanted -= options_of(i)[kept[i][0]].fp4_flops;
        continue;
      }
      open.push_back(i);
      for (const std::size_t a : kept[i])
        for (const std::size_t b : kept[i]) unit = std::max(unit, options_of(i)[a].cost - options_of(i)[b].cost);
    }
    if (unit == 0) return {best, 0};

    struct DeleteModel {
      void operator()(void* model) const { Cbc_deleteModel(model); }
    };
    const std::unique_ptr<void, DeleteModel> model(Cbc_newModel());
    Cbc_setLogLevel(model.get(), 0);
    std::vector<double> objective, shares, start;
    for (const std::size_t i : open)
      for (const std::size_t o : kept[i]) {
        objective.push_back((options_of(i)[o].cost - options_of(i)[kept[i][0]].cost) / unit);
        shares.push_back(options_of(i)[o].fp4_flops / stage_.flops);
        start.push_back(o == best[i] ? 1.0 : 0.0);
      }
    const auto columns = static_cast<int>(objective.size());
    std::vector<int> indices(objective.size()), starts(objective.size() + 1, 0);
    for (int column = 0; column < columns; ++column) indices[static_cast<std::size_t>(column)] = column;
    const std::vector<double> ones(objective.size(), 1.0), zeros(objective.size(), 0.0);
    Cbc_loadProblem(model.get(), columns, 0, starts.data(), nullptr, nullptr, zeros.data(), ones.data(),
                    objective.data(), nullptr, nullptr);
    for (int column = 0; column < columns; ++column) Cbc_setInteger(model.get(), column);
    int first = 0;
    for (const std::size_t i : open) {
      const auto count = static_cast<int>(kept[i].size());
      Cbc_addRow(model.get(), "one", count, indices.data() + first, ones.data(), 'E', 1.0);
      first += count;
    }
    Cbc_addRow(model.get(), "share", columns, indices.data(), shares.data(), 'G', wanted / stage_.flops - 1e-9);
    Cbc_setMIPStartI(model.get(), columns, indices.data(), start.data());
    const double allowed = kPrecisionGap * std::fabs(bound);
    Cbc_setAllowableGap(model.get(), allowed / unit);
    Cbc_setMaximumNodes(model.get(), kMostNodes);
    Cbc_solve(model.get());
    const bool proven = Cbc_isProvenOptimal(model.get());
    if (!proven && !Cbc_isNodeLimitReached(model.get()))
      throw InternalError("the solver found no optimum of a feasible precision programme");
    const double* solution = proven ? Cbc_getColSolution(model.get()) : Cbc_bestSolution(model.get());
    std::vector<std::size_t> found = best;
    if (solution != nullptr)
      for (const std::size_t i : open) {
        const auto at = std::max_element(solution, solution + kept[i].size()) - solution;
        if (solution[at] < 0.999) throw InternalError("the solver left a choice open");
        found[i] = kept[i][static_cast<std::size_t>(at)];
        solution += kept[i].size();
      }
    if (cost_of(found) < cost_of(best)) best = std::move(found);
    return {best, proven ? allowed : cost_of(best) - bound};
  }

  const PrecisionProgramme& programme_;
  const Stage& stage_;
};

}  // namespace

PrecisionChoice solve(const PrecisionProgramme& programme) {
  check(programme);
  PrecisionChoice choice;
  choice.options.resize(programme.layers.size());
  double fp4 = 0, all = 0;
  for (const Stage& stage : stages_of(programme)) {
    const auto [options, gap] = StageProgramme(programme, stage).solve();
    choice.gap += gap;
    for (std::size_t i = 0; i < options.size(); ++i) choice.options[stage.layers[i]] = options[i];
  }
  for (std::size_t layer = 0; layer < programme.layers.size(); ++layer) {
    const PrecisionOption& option = programme.layers[layer][choice.options[layer]];
    choice.cost += option.cost;
    fp4 += option.fp4_flops;
    all += programme.flops[layer];
  }
  choice.fp4_share = fp4 / all;
  return choice;
}

}  // namespace scalebits
