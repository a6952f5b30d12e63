// The exact packed kernel for any x86-64; the oracle.
#include "kernels/cpu/vectors_scalar.h"

#include "kernels/cpu/packed_f32_body.h"

namespace scalebits {

static_assert(ScalarVectors::kPassRows == kPackedF32PassScalar);

void packed_f32_scalar(const PackedF32Call& call) { PackedF32<ScalarVectors>{call}.run(); }

}  // namespace scalebits
