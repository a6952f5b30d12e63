// The packed_i8 product on AVX-VNNI: as on AVX-512, in half vectors.
#include "kernels/cpu/packed_i8_256.h"
#include "kernels/cpu/packed_i8_panel.h"

namespace scalebits {
namespace {

struct AvxVnni : Vectors256 {
  static constexpr bool kWideProducts = true;
  static constexpr int chunks_per_run(int) { return 16; }
  static constexpr int kPanelTileRows = 1;  // 10 registers of sums, 2 of codes
  static constexpr int panel_x(int) { return 5; }
  using NarrowSum = Sum;
  static Sum widened(NarrowSum sum) { return sum; }
  static NarrowSum add_product(NarrowSum sum, Ints codes, Ints values) {
    return std::bit_cast<Sum>(_mm256_dpbusd_avx_epi32(std::bit_cast<Ints>(sum), codes, values));
  }
  static void add_products_at(NarrowSum* sums, const Ints* codes, const std::int8_t* values) {
    const Ints value = broadcast4(values);
    for (int part = 0; part < kParts; ++part) sums[part] = add_product(sums[part], codes[part], value);
  }
};

}  // namespace

void run_packed_i8_avx_vnni(const PackedTask& task) { run_packed_i8<AvxVnni>(task); }

void run_packed_i8_avx_vnni_panels(const PackedTask& task) { run_packed_i8_panels<AvxVnni>(task); }

}  // namespace scalebits
