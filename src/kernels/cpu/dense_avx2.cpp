// The dense kernel for AVX2, FMA and F16C.
#include "kernels/cpu/vectors_avx2.h"

#include "kernels/cpu/dense_body.h"

namespace scalebits {

void dense_avx2(const DenseCall& call) { run_dense<Avx2Vectors>(call); }

}  // namespace scalebits
