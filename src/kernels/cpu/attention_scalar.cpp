// Attention for any x86-64; the oracle.
#include "kernels/cpu/vectors_scalar.h"

#include "kernels/cpu/attention_body.h"

namespace scalebits {

void attention_scalar(const AttentionCall& call) { Attention<ScalarVectors>{call}.run(); }

void attention_exp_scalar(const float* x, std::int64_t count, float* out) { exp_all<ScalarVectors>(x, count, out); }

}  // namespace scalebits
