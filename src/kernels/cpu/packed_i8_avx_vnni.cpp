// The packed_i8 product on AVX-VNNI: as on AVX-512, in half vectors.
#include "kernels/cpu/packed_i8_256.h"
#include "kernels/cpu/packed_i8_panel.h"

#include <bit>

namespace scalebits {
namespace {

struct AvxVnni : Vectors256 {
  static constexpr bool kWideProducts = true;
  static constexpr int chunks_per_run(int) { return 16; }
  static Ints multiply_add(Ints sum, Ints codes, Ints values) { return _mm256_dpbusd_avx_epi32(sum, codes, values); }
  using Vectors256::multiply_add;
  static Ints multiply_add_at(Ints sum, Ints codes, const std::int8_t* values) {
    return multiply_add(sum, codes, broadcast4(values));
  }
  static Ints widen(Ints x) { return x; }

  static constexpr int kPanelTileRows = 1;  // 10 registers of sums, 2 of codes
  static constexpr int panel_x(int) { return 5; }
  using Sum = std::int32_t __attribute__((vector_size(32)));  // as in Avx512
  static Ints to_ints(Sum sum) { return std::bit_cast<Ints>(sum); }
  static Sum add_product(Sum sum, Ints codes, Ints values) {
    return std::bit_cast<Sum>(multiply_add(to_ints(sum), codes, values));
  }
};

}  // namespace

void run_packed_i8_avx_vnni(const PackedTask& task) { run_packed_i8<AvxVnni>(task); }

void run_packed_i8_avx_vnni_panels(const PackedTask& task) { run_packed_i8_panels<AvxVnni>(task); }

}  // namespace scalebits
