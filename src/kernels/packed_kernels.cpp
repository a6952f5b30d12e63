// The table of kernels on packed weights, and of those that prepare their activations; best first.
#include "kernels/cpu/packed_f32.h"
#include "kernels/cpu/packed_i8.h"

#include <array>

namespace scalebits {

/// From how many rows of activations on whole AMX tiles pay, though part of a tile may be empty: measured.
constexpr std::int64_t kAmxRows = 5;
/// From how many rows on it pays to unpack codes once for all of them: measured.
constexpr std::int64_t kPanelRows512 = 20, kPanelRowsAvxVnni = 9, kPanelRowsAvx2 = 13;

std::span<const PackedKernel> packed_kernels() {
  static constexpr std::array kKernels = {
      PackedKernel{"packed i8 amx", ActivationFormat::i8, Isa::amx, kAmxRows, run_packed_i8_amx},
      PackedKernel{"packed i8 avx512-vnni panels", ActivationFormat::i8, Isa::avx512_vnni, kPanelRows512,
                   run_packed_i8_avx512_panels},
      PackedKernel{"packed i8 avx512-vnni", ActivationFormat::i8, Isa::avx512_vnni, 1, run_packed_i8_avx512},
      PackedKernel{"packed i8 avx-vnni panels", ActivationFormat::i8, Isa::avx_vnni, kPanelRowsAvxVnni,
                   run_packed_i8_avx_vnni_panels},
      PackedKernel{"packed i8 avx-vnni", ActivationFormat::i8, Isa::avx_vnni, 1, run_packed_i8_avx_vnni},
      PackedKernel{"packed i8 avx2 panels", ActivationFormat::i8, Isa::avx2, kPanelRowsAvx2, run_packed_i8_avx2_panels},
      PackedKernel{"packed i8 avx2", ActivationFormat::i8, Isa::avx2, 1, run_packed_i8_avx2},
      PackedKernel{"packed i8 scalar", ActivationFormat::i8, Isa::scalar, 1, run_packed_i8_scalar},
      PackedKernel{"packed f32 avx512", ActivationFormat::f32, Isa::avx512_vnni, 1, run_packed_f32_avx512},
      PackedKernel{"packed f32 avx2", ActivationFormat::f32, Isa::avx2, 1, run_packed_f32_avx2},
      PackedKernel{"packed f32 scalar", ActivationFormat::f32, Isa::scalar, 1, run_packed_f32_scalar},
  };
  return kKernels;
}

std::span<const GatherKernel> gather_kernels() {
  static constexpr std::array kKernels = {
      GatherKernel{"gather i8 avx512", ActivationFormat::i8, Isa::avx512_vnni, gather_i8_avx512},
      GatherKernel{"gather i8 avx2", ActivationFormat::i8, Isa::avx2, gather_i8_avx2},
      GatherKernel{"gather i8 scalar", ActivationFormat::i8, Isa::scalar, gather_i8_scalar},
      GatherKernel{"gather f32", ActivationFormat::f32, Isa::scalar, gather_f32},
  };
  return kKernels;
}

}  // namespace scalebits
