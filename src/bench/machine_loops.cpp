#include "bench/machine_loops.h"

#include <array>
#include <cstring>

namespace scalebits {

std::uint64_t read_baseline(const std::byte* data, std::size_t bytes) {
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i < bytes; i += 64)
    for (std::size_t k = 0; k < 8; ++k) {
      std::uint64_t word = 0;
      std::memcpy(&word, data + i + 8 * k, 8);
      sums[k] |= word;
    }
  return sums[0] | sums[1] | sums[2] | sums[3] | sums[4] | sums[5] | sums[6] | sums[7];
}

std::span<const ReadLoop> read_loops() {
  static constexpr std::array kLoops = {
      ReadLoop{"512-bit loads", Isa::avx512_vnni, read_avx512},
      ReadLoop{"256-bit loads", Isa::avx2, read_avx2},
      ReadLoop{"plain loads", Isa::scalar, read_baseline},
  };
  return kLoops;
}

std::span<const PeakLoop> peak_loops() {
  // Multiplications per round: registers x bytes of each; AMX: tiles x 16 x 16 x 64.
  static constexpr std::array kLoops = {
      PeakLoop{"tdpbusd", Isa::amx, 2.0 * 4 * 16 * 16 * 64, peak_amx},
      PeakLoop{"vpdpbusd 512", Isa::avx512_vnni, 2.0 * 16 * 64, peak_avx512_vnni},
      PeakLoop{"vpdpbusd 256", Isa::avx_vnni, 2.0 * 12 * 32, peak_avx_vnni},
      PeakLoop{"vpmaddubsw + vpmaddwd", Isa::avx2, 2.0 * 8 * 32, peak_avx2},
  };
  return kLoops;
}

}  // namespace scalebits
