// The exact kernels of packed matrices, for PackedKernel's table: activations stay f32.
#pragma once

#include "kernels/kernel.h"

namespace scalebits {

void run_packed_f32_scalar(const PackedTask& task);
void run_packed_f32_avx2(const PackedTask& task);
void run_packed_f32_avx512(const PackedTask& task);

}  // namespace scalebits
