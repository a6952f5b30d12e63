// Activations as products on the card read them: gathered into stored order, f16, 8 tokens to a block, either in the
// order of mma's second operand, with the sum of every group, which carries the zero points, or token by token, as
// wgmma reads them out of shared memory. Tokens beyond the last one and inputs beyond the matrix are zeros. Its one
// subtle rule: f16 activations are taken as they are; f32 and bf16 ones are divided by a power of two per token, the
// factor, so that the largest lies in [1, 2), and results are multiplied by it: exact for bf16 but for values below
// 2^-14 of the token's largest, which lose at most 2^-25 of it. A token with a value that is not finite has factor NaN.
#pragma once

#include "kernels/cuda/device_layout.h"

namespace scalebits::cuda {

inline constexpr int kTokenBlock = 8;
inline constexpr int kBlockRegisters = 8;  // of a cell and a block of tokens, in each lane: register 2t + b

/// Token of the block and first of the two inputs that register 2t + b of the lane holds.
SCALEBITS_HD constexpr int activation_token(int lane) { return lane / 4; }
SCALEBITS_HD constexpr int activation_input(int lane, int reg) {
  return 16 * (reg / 2) + 8 * (reg % 2) + 2 * (lane % 4);
}

/// The inverse for inputs 2·pair and 2·pair + 1 of a cell: lane mod 4, and register.
SCALEBITS_HD constexpr int quad_of_pair(int pair) { return pair % 4; }
SCALEBITS_HD constexpr int register_of_pair(int pair) { return pair / 8 * 2 + pair / 4 % 2; }

/// Fragments: 32-bit words [cell, block, half, lane, 4]; a lane reads its 8 registers as two words of 16 bytes.
SCALEBITS_HD constexpr std::int64_t fragment_index(std::int64_t cell, int block, int blocks, int lane, int reg) {
  return (((cell * blocks + block) * 2 + reg / 4) * kLanes + lane) * 4 + reg % 4;
}
/// By tokens: words of two inputs [cell, token, 8 pieces, 4]. `pair`: inputs 2·pair and the next of the cell. Pieces
/// change places, so that eight tokens' are at eight places: what wgmma calls a swizzle of 128 bytes.
SCALEBITS_HD constexpr std::int64_t by_tokens_index(std::int64_t cell, int token, int tokens, int pair) {
  return ((cell * tokens + token) * 8 + ((pair / 4) ^ (token % 8))) * 4 + pair % 4;
}
/// Sums: f32 [cell, group of the cell, token].
SCALEBITS_HD constexpr std::int64_t sum_index(std::int64_t cell, int group, int groups, int token, int tokens) {
  return (cell * groups + group) * tokens + token;
}

/// 2^e with 1 <= largest / 2^e < 2; 1 for 0; NaN for what is not finite.
SCALEBITS_HD inline float token_factor(float largest) {
  union {
    float value;
    std::uint32_t bits;
  } number{largest};
  if (number.bits == 0) return 1;
  if (number.bits >= 0x7f800000u) {
    number.bits = 0x7fc00000u;
    return number.value;
  }
  if (number.bits < 0x00800000u) number.bits = 0x00800000u;  // subnormals: the smallest normal power
  number.bits &= 0x7f800000u;
  return number.value;
}

}  // namespace scalebits::cuda
