// What the portable half of attention (attention.cpp) hands to the half that is compiled for each instruction set:
// plain numbers and pointers only, as in dense_calls.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scalebits {

/// Positions worked on together, and those whose sums are gathered apart from the others'. Both are counted from
/// position 0, so that a query's operations depend on nothing but its positions.
inline constexpr std::int64_t kAttentionBlock = 64;
inline constexpr std::int64_t kAttentionSplit = 256;

/// Some rows (a query and a head each) against one kv head, over the positions of one split.
struct AttentionCall {
  bool i8 = false;
  const std::byte* keys = nullptr;  // [positions, head_dim], f16 or i8
  const std::byte* values = nullptr;
  const float* key_scales = nullptr;  // of i8: [positions]
  const float* value_scales = nullptr;
  std::int64_t head_dim = 0;
  std::int64_t padded_dim = 0;  // to a multiple of 16
  std::int64_t rows = 0;
  const float* q = nullptr;             // [rows, padded_dim], divided by sqrt(head_dim), zeros behind
  const std::int64_t* first = nullptr;  // [rows]: positions that the row sees
  const std::int64_t* last = nullptr;
  std::int64_t begin = 0;  // the split, at a multiple of kAttentionSplit, cut to positions that any row sees
  std::int64_t end = 0;
  // Scratch: [block, padded_dim] twice, [rows, block].
  float* key_block = nullptr;
  float* value_block = nullptr;
  float* scores = nullptr;
  // Results: with m the largest score of a row, Σ exp(s − m) and Σ exp(s − m) · value. Lanes of `total` are to be
  // added.
  float* largest = nullptr;  // [rows]; −FLT_MAX where a row sees nothing
  float* total = nullptr;    // [rows, 16] while at work, then [rows, 0] holds the sum
  float* out = nullptr;      // [rows, padded_dim]
};

void attention_scalar(const AttentionCall& call);
void attention_avx2(const AttentionCall& call);
void attention_avx512(const AttentionCall& call);

/// Rounds `count` values, as KvLayer::store says.
void store_f16_scalar(const float* from, std::int64_t count, std::byte* to);
void store_f16_avx2(const float* from, std::int64_t count, std::byte* to);
void store_i8_scalar(const float* from, std::int64_t count, std::byte* to, float* scale);
void store_i8_avx2(const float* from, std::int64_t count, std::byte* to, float* scale);

/// exp(x[i]) as attention computes it, for x <= 0; a multiple of 16 of them.
void attention_exp_scalar(const float* x, std::int64_t count, float* out);
void attention_exp_avx2(const float* x, std::int64_t count, float* out);
void attention_exp_avx512(const float* x, std::int64_t count, float* out);

}  // namespace scalebits
