// A hundred thousand random little products: any format, widths, codes, side information, number of rows and part
// of the matrix, each by a kernel drawn from those of this machine, against the scalar one, bit for bit. Blobs are
// random bytes under valid tags, on the heap at their exact size, so that sanitizers see a read beyond them.
#include "kernels/kernel.h"
#include "tests/kernels/random_packed.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>

namespace scalebits {

// tests/kernels/packed_i8_amx_emulated.cpp, tests/kernels/packed_i8_avx_vnni_evex.cpp
void run_packed_i8_amx_emulated(const PackedTask& task);
void run_packed_i8_avx_vnni_evex(const PackedTask& task);
void run_packed_i8_avx_vnni_panels_evex(const PackedTask& task);

namespace {

int case_count() {
  const char* text = std::getenv("SCALEBITS_FUZZ_CASES");
  return text == nullptr ? 100'000 : std::atoi(text);
}

std::vector<std::byte> random_blob(Dice& dice, const MatrixFormat& format, const std::vector<std::uint8_t>& widths) {
  std::vector<std::byte> blob(packed_bytes(format, widths));
  for (std::byte& byte : blob) byte = static_cast<std::byte>(dice.below(256));
  encode_tags(format, widths, std::span(blob).first(format.tag_bytes()));
  return blob;
}

TEST(PackedKernels, AgreeOnAnything) {
  Dice dice(20261121);
  for (int trial = 0; trial < case_count(); ++trial) {
    const MatrixFormat format = random_packed_format(dice, 1 + dice.below(70), 1 + dice.below(140));
    const std::vector<std::uint8_t> widths = random_block_widths(dice, format);
    const std::vector<std::byte> blob = random_blob(dice, format, widths);
    const PackedWeights weights(PackedMatrix(format, blob, "random"), {}, {});

    const ActivationFormat kind = dice.below(4) == 0 ? ActivationFormat::f32 : ActivationFormat::i8;
    std::vector<PackedKernel> kernels;
    if (kind == ActivationFormat::i8 && machine_has(Isa::avx512_vnni))
      kernels = {
          {"avx-vnni, encoded for AVX-512", kind, Isa::avx512_vnni, 1, run_packed_i8_avx_vnni_evex},
          {"avx-vnni panels, encoded for AVX-512", kind, Isa::avx512_vnni, 1, run_packed_i8_avx_vnni_panels_evex},
          {"amx, tiles in memory", kind, Isa::avx512_vnni, 1, run_packed_i8_amx_emulated}};
    for (const PackedKernel& kernel : packed_kernels())
      if (kernel.format == kind && machine_has(kernel.isa)) kernels.push_back(kernel);
    const PackedKernel &kernel = kernels[static_cast<std::size_t>(dice.below(std::ssize(kernels) - 1))],
                       &scalar = kernels.back();
    ASSERT_EQ(scalar.isa, Isa::scalar);

    const std::int64_t n = 1 + dice.below(dice.below(10) == 0 ? 70 : 6);
    Activations x;
    x.resize(kind, n, format.cols, weights.activation_group());
    std::vector<float> inputs(static_cast<std::size_t>(n * format.cols));
    for (float& value : inputs) value = dice.real();
    for (const GatherKernel& gather : gather_kernels())
      if (gather.format == kind && gather.isa == Isa::scalar)
        gather.run({inputs.data(), format.cols, format.cols, {}, 0, n * x.groups(), &x});

    const std::int64_t first = dice.below(format.tile_row_count()),
                       last = first + 1 + dice.below(format.tile_row_count() - first);
    std::vector<float> wanted(static_cast<std::size_t>(n * format.rows), -3.0f), found = wanted;
    scalar.run({&weights, &x, first, last, wanted.data(), format.rows});
    kernel.run({&weights, &x, first, last, found.data(), format.rows});
    for (std::size_t i = 0; i < wanted.size(); ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wanted[i]), std::bit_cast<std::uint32_t>(found[i]))
          << kernel.name << ", trial " << trial << ": " << format.rows << "x" << format.cols << ", element " << i;
  }
}

}  // namespace
}  // namespace scalebits
