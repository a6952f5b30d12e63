// The dense kernel for any x86-64; the oracle.
#include "kernels/cpu/vectors_scalar.h"

#include "kernels/cpu/dense_body.h"

namespace scalebits {

void dense_scalar(const DenseCall& call) { run_dense<ScalarVectors>(call); }

}  // namespace scalebits
