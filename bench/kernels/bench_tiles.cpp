// What 8-bit products cost when memory is no matter: bench_tiles [WIDTH…]. One core, a matrix of 128 x 2048 in the
// second cache, by every kernel that the machine has (and AVX-VNNI's with its instruction encoded for AVX-512): best of
// many runs, in nanoseconds a tile of 16 x 64 weights, and in operations per second.
#include "kernels/kernel.h"
#include "tests/kernels/random_packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

namespace scalebits {

// tests/kernels/packed_i8_avx_vnni_evex.cpp
void run_packed_i8_avx_vnni_evex(const PackedTask& task);
void run_packed_i8_avx_vnni_panels_evex(const PackedTask& task);

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kTime{60};  // of runs, of which the best counts

std::vector<PackedKernel> kernels_here() {
  std::vector<PackedKernel> result;
  for (const PackedKernel& kernel : packed_kernels())
    if (kernel.format == ActivationFormat::i8 && kernel.isa != Isa::scalar && machine_has(kernel.isa))
      result.push_back(kernel);
  if (machine_has(Isa::avx512_vnni)) {
    result.push_back({"packed i8 vnni 256", ActivationFormat::i8, Isa::avx512_vnni, 1, run_packed_i8_avx_vnni_evex});
    result.push_back(
        {"packed i8 vnni 256 panels", ActivationFormat::i8, Isa::avx512_vnni, 1, run_packed_i8_avx_vnni_panels_evex});
  }
  return result;
}

void measure(int width) {
  constexpr std::int64_t kRows = 128, kCols = 2048, kTiles = kRows / kTileRows * (kCols / kTileCols);
  MatrixFormat format{.rows = kRows, .cols = kCols, .block_rows = 16};
  format.block_cols = format.group_cols = kTileCols;
  // As `quantize` stores them: eight scales to an octave.
  format.side = {.scale_bits = 6, .zero_bits = 4, .scale_base = 0.003f, .scale_step_log2 = 0.125f, .zero_range = 0.25f};
  Dice dice(1);
  const std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()),
                                         static_cast<std::uint8_t>(width));
  const RandomPacked packed = random_packed(dice, format, widths);
  for (const std::int64_t n : {1, 2, 4, 8, 12, 16, 24, 48, 96, 256}) {
    std::vector<float> inputs(static_cast<std::size_t>(n * kCols)), y(static_cast<std::size_t>(n * kRows));
    for (float& value : inputs) value = dice.real();
    Activations x;
    x.resize(ActivationFormat::i8, n, kCols, packed.weights->activation_group());
    KernelChoice(highest_isa())
        .gather(ActivationFormat::i8)
        .run({inputs.data(), kCols, kCols, packed.weights->input_order(), 0, n * x.groups(), &x});
    for (const PackedKernel& kernel : kernels_here()) {
      double best = 1e9;
      const auto end = Clock::now() + kTime;
      do {
        const auto start = Clock::now();
        kernel.run({packed.weights.get(), &x, 0, format.tile_row_count(), y.data(), kRows});
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
      } while (Clock::now() < end);
      fmt::print("{} bits, {:>3} rows  {:<30} {:>8.1f} ns/tile {:>7.0f} GOPS\n", width, n, kernel.name,
                 1e9 * best / kTiles, 2e-9 * static_cast<double>(n * kRows * kCols) / best);
    }
  }
}

}  // namespace
}  // namespace scalebits

int main(int argc, char** argv) {
  if (argc == 1)
    for (const int width : {2, 3, 4, 8}) scalebits::measure(width);
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (text.size() != 1 || text[0] < '1' || text[0] > '8') {
      fmt::print(stderr, "bench_tiles: wanted widths of 1 to 8, found '{}'\n", text);
      return 2;
    }
    scalebits::measure(text[0] - '0');
  }
}
