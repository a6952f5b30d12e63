// How well does a score predict? Takes a saved search state, moves single random blocks up or down by one bit, measures
// the change of the loss, and correlates it with what each statistic predicted from one backward pass over WINDOWS
// windows of 512 tokens: on these tokens with OTHER 0, else on OTHER windows that were not scored. Prints Spearman's
// rank correlation with a 95% bootstrap interval, and writes every move as JSON.
//   bench_block_moves MODEL STATE OUT.json MOVES WINDOWS OTHER TEXT…
#include "allocate/allocation.h"
#include "checkpoint/read_checkpoint.h"
#include "core/atomic_file.h"
#include "core/parallel.h"
#include "core/random.h"
#include "graph/decoder.h"
#include "pipeline/calibration.h"
#include "pipeline/search_state.h"
#include "pipeline/width_rules.h"
#include "sensitivity/block_scores.h"
#include "sensitivity/search_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace scalebits;

namespace {

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t first = 0; first < order.size();) {
    std::size_t last = first;
    while (last + 1 < order.size() && values[order[last + 1]] == values[order[first]]) ++last;
    for (std::size_t i = first; i <= last; ++i) result[order[i]] = 0.5 * static_cast<double>(first + last);
    first = last + 1;
  }
  return result;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n,
               mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

double spearman(const std::vector<double>& a, const std::vector<double>& b) { return correlation(ranks(a), ranks(b)); }

/// 95% interval over 2000 resamplings of the moves.
std::pair<double, double> interval(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> values;
  const CounterRng rng(99);
  std::uint64_t draw = 0;
  for (int sample = 0; sample < 2000; ++sample) {
    std::vector<double> x, y;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const auto pick = static_cast<std::size_t>(rng.below(draw++, a.size()));
      x.push_back(a[pick]);
      y.push_back(b[pick]);
    }
    values.push_back(spearman(x, y));
  }
  std::sort(values.begin(), values.end());
  return {values[50], values[1949]};
}

struct Move {
  std::size_t matrix, block;
  int from, to;
  double measured = 0, first_order = 0, squares = 0;
};

/// Σ g d (mean) or Σ (g d)² (tokens) with d the change of the matrix's weights that the move makes.
double along_move(const RoundedMatrix& matrix, const std::vector<std::uint8_t>& widths, const Move& move,
                  const float* gradient, GradientKind kind) {
  const auto count = static_cast<std::size_t>(matrix.format().rows * matrix.format().cols);
  std::vector<float> before(count), after(count);
  std::vector<std::uint8_t> moved = widths;
  moved[move.block] = static_cast<std::uint8_t>(move.to);
  matrix.dequantize(widths, before.data());
  matrix.dequantize(moved, after.data());
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double term = static_cast<double>(gradient[i]) * (after[i] - before[i]);
    sum += kind == GradientKind::mean ? term : term * term;
  }
  return sum;
}

struct Predictor {
  const char* name;
  GradientKind kind;
  Statistic statistic;
};
constexpr Predictor kPredictors[] = {{"absolute", GradientKind::mean, Statistic::absolute},
                                     {"signed", GradientKind::mean, Statistic::signed_sum},
                                     {"fisher", GradientKind::mean, Statistic::fisher},
                                     {"absolute, tokens", GradientKind::tokens, Statistic::absolute},
                                     {"fisher, tokens", GradientKind::tokens, Statistic::fisher},
                                     {"weight error", GradientKind::mean, Statistic::weight_error}};

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 8) fail(ErrorKind::usage, "usage: bench_block_moves MODEL STATE OUT.json MOVES WINDOWS OTHER TEXT...");
  const Checkpoint checkpoint = read_checkpoint(argv[1]);
  const auto moves_wanted = static_cast<std::size_t>(std::stoul(argv[4]));
  Recipe recipe;
  recipe.windows_per_gradient = std::stoi(argv[5]);
  const std::int64_t others = std::stoi(argv[6]);
  recipe.window_length = 512;
  const CalibrationSet calibration = calibration_from_text(checkpoint, {argv + 7, argv + argc}, recipe);
  const SavedSearch saved = load_search_state(argv[2]);
  if (saved.provenance.checkpoint_hash != checkpoint.hash) fail_input("{}: was made from another checkpoint", argv[2]);
  const SearchState& state = saved.state;
  const RoundedMatrices matrices = round_matrices(checkpoint, state.partition, state.importance,
                                                  recipe_from_json(saved.provenance.recipe, {}, argv[2]));
  const at::Tensor windows = calibration.gradient_windows.narrow(0, 0, recipe.windows_per_gradient).contiguous();
  const at::Tensor measured_on =
      others == 0 ? windows : calibration.gradient_windows.narrow(0, recipe.windows_per_gradient, others).contiguous();

  std::vector<Move> moves;
  const CounterRng rng(2026);
  for (std::uint64_t draw = 0; moves.size() < moves_wanted; draw += 3) {
    const auto m = static_cast<std::size_t>(rng.below(draw, matrices.size()));
    if (!matrices[m]) continue;
    const auto block = static_cast<std::size_t>(rng.below(draw + 1, state.plan.widths[m].size()));
    const int from = state.plan.widths[m][block], to = from + (rng.below(draw + 2, 2) == 0 ? -1 : 1);
    if (to < 1 || to > 8) continue;
    moves.push_back({m, block, from, to});
  }
  std::vector<SensitivityTable> tables(std::size(kPredictors));
  for (auto& table : tables) table.scores.resize(matrices.size());
  SearchModel model(checkpoint, matrices);
  Decoder decoder(checkpoint.spec, model);
  model.use(state.plan);
  double base = 0;
  for (const GradientKind kind : {GradientKind::mean, GradientKind::tokens}) {
    GradientReducer reducer(matrices, checkpoint.spec, kind, [&](std::size_t m, const at::Tensor& handed) {
      const auto* const gradient = handed.const_data_ptr<float>();
      for (std::size_t p = 0; p < tables.size(); ++p)
        if (kPredictors[p].kind == kind)
          tables[p].scores[m] = score_blocks(*matrices[m], gradient, kPredictors[p].statistic);
      for (Move& move : moves)
        if (move.matrix == m)
          (kind == GradientKind::mean ? move.first_order : move.squares) =
              along_move(*matrices[m], state.plan.widths[m], move, gradient, kind);
    });
    base = decoder.loss_and_gradients(windows, {}, reducer).mean;
  }

  if (others > 0) base = decoder.loss(measured_on, {}).mean;
  for (std::size_t i = 0; i < moves.size(); ++i) {
    BitPlan moved = state.plan;
    moved.widths[moves[i].matrix][moves[i].block] = static_cast<std::uint8_t>(moves[i].to);
    model.use(moved);
    moves[i].measured = decoder.loss(measured_on, {}).mean - base;
    if (i % 20 == 19) fmt::print(stderr, "{} of {} moves\n", i + 1, moves.size());
  }

  std::vector<double> measured;
  for (const Move& move : moves) measured.push_back(move.measured);
  Json report = {{"model", argv[1]},
                 {"moves", moves.size()},
                 {"scored_tokens", windows.numel()},
                 {"measured_tokens", measured_on.numel()},
                 {"loss", base}};
  for (std::size_t s = 0; s < tables.size(); ++s) {
    std::vector<double> predicted;
    for (const Move& move : moves) {
      const WidthScores& scores = tables[s].scores[move.matrix][move.block];
      predicted.push_back(scores[static_cast<std::size_t>(move.to)] - scores[static_cast<std::size_t>(move.from)]);
    }
    const auto [low, high] = interval(predicted, measured);
    const double rho = spearman(predicted, measured);
    const char* name = kPredictors[s].name;
    fmt::print("{:22} Spearman {:.3f} [{:.3f}, {:.3f}]\n", name, rho, low, high);
    report["spearman"][name] = {{"rho", rho}, {"low", low}, {"high", high}};
    report["predicted"][name] = predicted;
  }
  // Taylor's series at the rounded model, in the signed change of the weights: the slope, and with half of the Fisher
  // information's quadratic form, of which `squares` holds the sum over tokens of terms that carry 1/tokens each.
  const auto scored_tokens = static_cast<double>(windows.size(0) * (windows.size(1) - 1));
  for (const double half : {0.0, 0.5}) {
    std::vector<double> predicted;
    for (const Move& move : moves) predicted.push_back(move.first_order + half * scored_tokens * move.squares);
    const auto [low, high] = interval(predicted, measured);
    const double rho = spearman(predicted, measured);
    const char* name = half == 0 ? "signed slope" : "slope and curvature";
    fmt::print("{:22} Spearman {:.3f} [{:.3f}, {:.3f}]\n", name, rho, low, high);
    report["spearman"][name] = {{"rho", rho}, {"low", low}, {"high", high}};
    report["predicted"][name] = predicted;
  }
  report["measured"] = measured;
  write_file_atomically(argv[3], report.dump(1));
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_block_moves: {}\n", error.what());
  return 1;
}
