// How long allocation takes and how near the optimum it comes: bench_allocate [BLOCKS] [SEED]. Blocks of 64x64 in 200
// matrices, the last block column of every other matrix 64x32; losses log-normal, matrices of log-normal scales,
// falling like 4^-b times 0.5 to 1.5 at random. One thread, timed by its own clock, since the machine is seldom ours
// alone; the best of three runs.
#include "allocate/allocators.h"
#include "allocate/baq.h"
#include "allocate/baselines.h"
#include "allocate/optimum.h"
#include "core/random.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <functional>

namespace scalebits {
namespace {

double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double best_seconds(const std::function<void()>& work) {
  double best = INFINITY;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

AllocationProblem random_problem(std::int64_t blocks, std::uint64_t seed) {
  const CounterRng rng(seed);
  constexpr std::int64_t kMatrices = 200;
  AllocationProblem problem;
  std::uint64_t draw = 0;
  for (std::int64_t m = 0; m < kMatrices; ++m) {
    MatrixChoices matrix;
    std::vector<double> losses;
    const MatrixFormat format{.rows = 64 * (blocks / kMatrices / 16), .cols = m % 2 == 0 ? 1024 : 992};
    matrix.bytes = bytes_of_blocks(format);
    const double scale = std::exp(rng.normal(draw++));
    for (std::size_t i = 0; i < matrix.bytes.size(); ++i) {
      losses.push_back(scale * std::exp(2 * rng.normal(draw++)));
      WidthScores cost;
      for (int b = 0; b <= 8; ++b)
        cost[static_cast<std::size_t>(b)] =
            static_cast<float>(losses.back() * std::exp2(-2 * b) * (0.5 + rng.uniform(draw++)));
      matrix.cost.push_back(cost);
    }
    problem.start.widths.emplace_back(matrix.bytes.size(), 4);
    problem.choices.push_back(std::move(matrix));
    problem.baq_loss.push_back(losses);
    problem.salience.push_back(std::move(losses));
  }
  return problem;
}

double total_cost(const Choices& choices, const BitPlan& plan) {
  double cost = 0;
  for (std::size_t m = 0; m < choices.size(); ++m)
    for (std::size_t i = 0; i < choices[m].cost.size(); ++i) cost += choices[m].cost[i][plan.widths[m][i]];
  return cost;
}

int run(int argc, char** argv) {
  const std::int64_t blocks = argc > 1 ? std::atoll(argv[1]) : 1'000'000;
  AllocationProblem problem = random_problem(blocks, argc > 2 ? static_cast<std::uint64_t>(std::atoll(argv[2])) : 1);
  std::vector<double> losses;
  std::vector<std::int64_t> weights;
  for (std::size_t m = 0; m < problem.choices.size(); ++m)
    for (std::size_t i = 0; i < problem.baq_loss[m].size(); ++i) {
      losses.push_back(problem.baq_loss[m][i]);
      weights.push_back(m % 2 == 1 && i % 16 == 15 ? 64 * 32 : 64 * 64);
    }
  fmt::print("{} blocks\n", losses.size());
  fmt::print("water_fill, mean 3.1 within 1 to 8    {:8.3f} s\n",
             best_seconds([&] { water_fill(losses, weights, 3.1, 1, 8); }));
  for (const double part : {0.2871, 0.6137}) {
    const std::vector<std::uint64_t> narrow = bytes_at_width(problem.choices, 1),
                                     wide = bytes_at_width(problem.choices, 8);
    double low = 0, high = 0;
    for (std::size_t m = 0; m < narrow.size(); ++m) {
      low += static_cast<double>(narrow[m]);
      high += static_cast<double>(wide[m]);
    }
    problem.target_bytes = static_cast<std::uint64_t>(low + part * (high - low));
    OptimalityBound bound;
    const double seconds = best_seconds([&] { bound = optimality_bound(problem.choices, problem.target_bytes); });
    fmt::print("target {} bytes; bound {:.9g} in {:.3f} s\n", problem.target_bytes, bound.lower_bound, seconds);
    const auto report = [&](std::string_view name, const std::function<BitPlan()>& allocator) {
      BitPlan plan;
      const double took = best_seconds([&] { plan = allocator(); });
      fmt::print("  {:32}    {:8.3f} s   cost / bound - 1 = {:9.2e}   {} bytes left\n", name, took,
                 total_cost(problem.choices, plan) / bound.lower_bound - 1,
                 problem.target_bytes - bytes_of_plan(problem.choices, plan));
    };
    problem.limits = {};
    report("scalebits, a step from 4 bits", [&] { return allocate_with(Allocator::scalebits, problem); });
    problem.limits = {.lower_by = 8, .raise_by = 8};
    for (const Allocator allocator :
         {Allocator::scalebits, Allocator::baq, Allocator::baq_layer, Allocator::fisher_quantile, Allocator::uniform,
          Allocator::per_tensor, Allocator::exact})
      report(name_of(allocator), [&] { return allocate_with(allocator, problem); });
    const OptimalityBound exact = solve_exactly(knapsack_of(problem.choices), problem.target_bytes),
                          mix = allocate_per_tensor(problem.choices, problem.target_bytes);
    fmt::print("  proven optimal to {:.1e} (exact) and {:.1e} (per-tensor, among such plans)\n",
               exact.plan_cost / exact.lower_bound - 1, mix.plan_cost / mix.lower_bound - 1);
  }
  return 0;
}

}  // namespace
}  // namespace scalebits

int main(int argc, char** argv) {
  try {
    return scalebits::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_allocate: {}\n", error.what());
    return 1;
  }
}
