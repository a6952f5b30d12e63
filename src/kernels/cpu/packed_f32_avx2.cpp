// The exact packed kernel for AVX2 and FMA.
#include "kernels/cpu/vectors_avx2.h"

#include "kernels/cpu/packed_f32_body.h"

namespace scalebits {

static_assert(Avx2Vectors::kPassRows == kPackedF32PassAvx2);

void packed_f32_avx2(const PackedF32Call& call) { PackedF32<Avx2Vectors>{call}.run(); }

}  // namespace scalebits
