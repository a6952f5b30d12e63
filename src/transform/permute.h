// Reorders channels where the order is nobody's business: the same function, the same numbers, other places. An order
// says for each new channel which old one it was: new[i] = old[order[i]].
#pragma once

#include "model/checkpoint.h"

#include <cstdint>
#include <vector>

namespace scalebits {

using ChannelPermutation = std::vector<std::uint32_t>;

/// What to permute; an empty order, or an empty list of them, leaves the channels as they are.
struct ChannelPermutations {
  ChannelPermutation residual;                   // [hidden], one for the whole network
  std::vector<ChannelPermutation> intermediate;  // [layers] of [intermediate]: inside the MLP
  /// [layers][kv_heads] of [head_dim]: values inside each KV head, the same for all query heads that share it. Queries
  /// and keys stay, for the rotary embedding knows their places.
  std::vector<std::vector<ChannelPermutation>> values;
};

/// Moves bytes only: each tensor keeps its type and its values, and logits differ by the order of summation alone.
/// Throws Error(usage) naming the order that is no permutation of the right length.
Checkpoint permute(const Checkpoint& checkpoint, const ChannelPermutations& permutations);

}  // namespace scalebits
