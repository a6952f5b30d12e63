// The exact packed kernel for AVX-512.
#include "kernels/cpu/vectors_avx512.h"

#include "kernels/cpu/packed_f32_body.h"

namespace scalebits {

static_assert(Avx512Vectors::kPassRows == kPackedF32PassAvx512);

void packed_f32_avx512(const PackedF32Call& call) { PackedF32<Avx512Vectors>{call}.run(); }

}  // namespace scalebits
