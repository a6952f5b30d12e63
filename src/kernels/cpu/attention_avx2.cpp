// Attention for AVX2, FMA and F16C.
#include "kernels/cpu/vectors_avx2.h"

#include "kernels/cpu/attention_body.h"

namespace scalebits {

void attention_avx2(const AttentionCall& call) { Attention<Avx2Vectors>{call}.run(); }

void attention_exp_avx2(const float* x, std::int64_t count, float* out) { exp_all<Avx2Vectors>(x, count, out); }

}  // namespace scalebits
