// The dense kernel for AVX-512.
#include "kernels/cpu/vectors_avx512.h"

#include "kernels/cpu/dense_body.h"

namespace scalebits {

void dense_avx512(const DenseCall& call) { run_dense<Avx512Vectors>(call); }

}  // namespace scalebits
