#include "kernels/kernel.h"

#include "core/error.h"

namespace scalebits {
namespace {

std::string_view name_of(ActivationFormat format) { return format == ActivationFormat::i8 ? "8-bit" : "f32"; }

bool allowed(Isa isa, Isa highest) { return isa <= highest && machine_has(isa); }

}  // namespace

KernelChoice::KernelChoice(Isa highest_allowed) : highest(highest_allowed), dense(nullptr) {
  for (const DenseKernel& kernel : dense_kernels())
    if (allowed(kernel.isa, highest) && dense == nullptr) dense = &kernel;
  SCALEBITS_ASSERT(dense != nullptr);
}

const PackedKernel& KernelChoice::packed(ActivationFormat format, std::int64_t x_rows) const {
  for (const PackedKernel& kernel : packed_kernels())
    if (kernel.format == format && kernel.least_rows <= x_rows && allowed(kernel.isa, highest)) return kernel;
  throw InternalError(fmt::format("no kernel for packed weights, {} activations of {} rows, on {}", name_of(format),
                                  x_rows, scalebits::name_of(highest)));
}

const GatherKernel& KernelChoice::gather(ActivationFormat format) const {
  for (const GatherKernel& kernel : gather_kernels())
    if (kernel.format == format && allowed(kernel.isa, highest)) return kernel;
  throw InternalError(
      fmt::format("no kernel to gather {} activations on {}", name_of(format), scalebits::name_of(highest)));
}

}  // namespace scalebits
