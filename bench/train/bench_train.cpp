// What the parts of low-precision training cost: the integer programme for a large model, and fake quantisation beside
// a plain copy of the same bytes. bench_train [threads]
#include "train/fake_quantize.h"
#include "train/precision_programme.h"

#include "core/parallel.h"
#include "core/random.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using namespace scalebits;

template <typename Run>
double best_seconds(int repetitions, Run&& run) {
  double best = 1e9;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

/// Options as a transformer has them: FP8 costs little, FP4 much, the rest mixes per product; sizes of four kinds.
PrecisionProgramme large_programme(std::size_t layers, std::size_t options, int stages, std::uint64_t seed) {
  const CounterRng rng(seed);
  std::uint64_t draw = 0;
  PrecisionProgramme programme;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const double flops = static_cast<double>((1 + rng.below(draw++, 4)) * (options - 1));
    programme.flops.push_back(flops);
    if (stages > 1) programme.stages.push_back(static_cast<int>(layer * static_cast<std::size_t>(stages) / layers));
    auto& choices = programme.layers.emplace_back();
    const double weight = std::exp(2 * rng.normal(1'000'000 + layer));
    for (std::size_t o = 0; o < options; ++o) {
      const double share = static_cast<double>(o) / static_cast<double>(options - 1);
      choices.push_back({weight * (share + 0.2 * rng.uniform(draw++)), share * flops});
    }
  }
  return programme;
}

/// A large Llama's products, of which FP4 costs each what its operations are worth within `spread`: nearly all choices
/// tie.
PrecisionProgramme tied_programme(std::size_t layers, double spread, std::uint64_t seed) {
  constexpr double kSizes[] = {1, 0.125, 0.125, 1, 3.5, 3.5, 3.5};  // q, k, v, o, gate, up, down of 8192 x 8192
  const CounterRng rng(seed);
  PrecisionProgramme programme;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const double product = 8192 * 8192 * kSizes[layer % 7];
    programme.flops.push_back(3 * product);
    double cost[3];
    for (std::uint64_t i = 0; i < 3; ++i) cost[i] = product * std::exp(spread * rng.normal(3 * layer + i));
    auto& options = programme.layers.emplace_back();
    for (int low = 0; low < 8; ++low) {
      // As SNIP weighs them: the loss goes with the forward product, the two of gradients add up like noise.
      const bool forward = low & 1, input = low & 2, weight = low & 4;
      options.push_back({(forward ? 1 : 0.01) * cost[0] + std::hypot(input * cost[1], weight * cost[2]),
                         (forward + input + weight) * product});
    }
  }
  return programme;
}

template <typename Make>
void time_programmes(const std::string& what, double target, Make&& make) {
  double worst = 0, gap = 0;
  constexpr std::uint64_t kSeeds = 5;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    PrecisionProgramme programme = make(seed);
    programme.target_share = target;
    PrecisionChoice choice;
    worst = std::max(worst, best_seconds(1, [&] { choice = solve(programme); }));
    gap = std::max(gap, choice.gap / choice.cost);
  }
  fmt::print("programme of 1000 layers x 8 options, {}, target {:.2f}: at most {:.3f} s, gap {:.1e}, of {}\n", what,
             target, worst, gap, kSeeds);
}

void time_programme() {
  for (const int stages : {1, 8})
    for (const double target : {0.5, 0.75})
      time_programmes(fmt::format("{} stage(s)", stages), target,
                      [&](std::uint64_t seed) { return large_programme(1000, 8, stages, seed); });
  for (const double spread : {0.1, 0.05, 0.01, 0.001})
    time_programmes(fmt::format("tied within {}", spread), 0.5,
                    [&](std::uint64_t seed) { return tied_programme(1000, spread, seed); });
}

void time_quantisation() {
  constexpr std::int64_t kRows = 2048, kCols = 1024;
  const CounterRng rng(1);
  std::vector<float> in(kRows * kCols);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(rng.normal(i));
  std::vector<Bf16> halves(in.size()), out(in.size());
  fake_quantize({}, in.data(), kRows, kCols, halves.data());
  const double copy = best_seconds(20, [&] { std::memcpy(out.data(), halves.data(), halves.size() * sizeof(Bf16)); });
  fmt::print("copy of {} bf16 elements: {:.2f} elements/ns\n", in.size(), static_cast<double>(in.size()) / copy * 1e-9);
  for (const NumberFormat format : {NumberFormat::fp8, NumberFormat::fp4, NumberFormat::mxfp4, NumberFormat::nvfp4})
    for (const Tiling tiling : {Tiling::along_rows, Tiling::down_columns})
      for (const bool stochastic : {false, true}) {
        const FakeQuantize how{.format = format, .tiling = tiling, .stochastic = stochastic};
        const double seconds = best_seconds(20, [&] { fake_quantize(how, halves.data(), kRows, kCols, out.data()); });
        fmt::print("{:6} {:12}{}: {:.2f} elements/ns\n", name_of(format),
                   tiling == Tiling::along_rows ? "along rows" : "down columns", stochastic ? " stochastic" : "",
                   static_cast<double>(in.size()) / seconds * 1e-9);
      }
}

}  // namespace

int main(int argc, char** argv) {
  set_thread_count(argc > 1 ? std::atoi(argv[1]) : 1);
  time_programme();
  time_quantisation();
}
