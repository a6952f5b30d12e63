// The table of kernels on packed weights, and of those that prepare their activations; best first.
#include "kernels/cpu/packed_i8.h"

#include <array>

namespace scalebits {

std::span<const PackedKernel> packed_kernels() {
  static constexpr std::array kKernels = {
      PackedKernel{"packed i8 avx512-vnni", ActivationFormat::i8, Isa::avx512_vnni, 1, run_packed_i8_avx512},
      PackedKernel{"packed i8 scalar", ActivationFormat::i8, Isa::scalar, 1, run_packed_i8_scalar},
  };
  return kKernels;
}

std::span<const GatherKernel> gather_kernels() {
  static constexpr std::array kKernels = {
      GatherKernel{"gather i8 avx512", ActivationFormat::i8, Isa::avx512_vnni, gather_i8_avx512},
      GatherKernel{"gather i8 scalar", ActivationFormat::i8, Isa::scalar, gather_i8_scalar},
      GatherKernel{"gather f32", ActivationFormat::f32, Isa::scalar, gather_f32},
  };
  return kKernels;
}

}  // namespace scalebits
