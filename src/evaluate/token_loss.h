// What one token's logits cost, in nats: sums over the vocabulary in eight lanes of f32 that are emptied into f64
// before they grow inexact, the same bits on every instruction set.
#pragma once

#include <cstdint>

namespace scalebits {

/// -log softmax(logits)[target].
double negative_log_likelihood(const float* logits, std::int64_t vocab, std::int64_t target);

struct TokenDivergence {
  double kl = 0;           // KL(reference || model)
  bool same_top1 = false;  // the likeliest token, the first of equals, is the same
};
TokenDivergence divergence(const float* logits, const float* reference, std::int64_t vocab);

}  // namespace scalebits
