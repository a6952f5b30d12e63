// Attention for AVX-512.
#include "kernels/cpu/vectors_avx512.h"

#include "kernels/cpu/attention_body.h"

namespace scalebits {

void attention_avx512(const AttentionCall& call) { Attention<Avx512Vectors>{call}.run(); }

void attention_exp_avx512(const float* x, std::int64_t count, float* out) { exp_all<Avx512Vectors>(x, count, out); }

}  // namespace scalebits
