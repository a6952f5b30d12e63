// What lies between products when a model is decoded on a card, on rows of f32 in its memory: norms, rotation and the
// cache, attention, activation. Slow and obvious versions, deterministic; results agree with the CPU's up to roundings,
// not bit by bit. Everything that changes from token to token is read from the card's memory, so that one CUDA graph
// can be replayed for every token.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace scalebits::cuda {

/// x [rows, width] += delta, unless that is null; then out = norm(x): x / sqrt(mean(x²) + eps) · weight, or with a bias
/// LayerNorm, (x - mean) / sqrt(variance + eps) · weight + bias. out may not be x.
struct NormArgs {
  float* x = nullptr;
  const float* delta = nullptr;
  const float* weight = nullptr;
  const float* bias = nullptr;  // null: RMSNorm
  float eps = 0;
  int rows = 0;
  int width = 0;
  float* out = nullptr;
};
void launch_norm(const NormArgs& args, cudaStream_t stream);

/// gate = gate · sigmoid(gate) · up, or without up max(gate, 0); `count` elements.
void launch_activation(float* gate, const float* up, std::int64_t count, cudaStream_t stream);

/// Keys and values of one layer, as kernels/attention.h has them: [kv_heads, capacity, head_dim] of f16, or of 8-bit
/// integers with a scale [kv_heads, capacity] (max|x| / 127, nearest even, 0 where all are 0).
struct CacheView {
  void* keys = nullptr;
  void* values = nullptr;
  float* key_scales = nullptr;  // null: f16
  float* value_scales = nullptr;
  std::int64_t capacity = 0;
};

/// Tokens of one sequence, each at its position.
struct AttentionArgs {
  CacheView cache;
  const std::int32_t* positions = nullptr;  // [tokens]; a token sees positions 0 to its own
  int tokens = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;          // even, at most 256
  float* q = nullptr;        // [tokens, heads, head_dim], turned in place
  const float* k = nullptr;  // [tokens, kv_heads, head_dim]
  const float* v = nullptr;
  const float* q_norm = nullptr;  // [head_dim]: RMSNorm of each head before it is turned; null: none
  const float* k_norm = nullptr;
  float eps = 0;
  const float* cosines = nullptr;  // [positions, head_dim / 2]; null: nothing is turned
  const float* sines = nullptr;
  float* parts = nullptr;  // attention_part_bytes()
  float* out = nullptr;    // [tokens, heads, head_dim]
};
/// Norms and turns q and k, rounds k and v into the cache.
void launch_rotate_and_store(const AttentionArgs& args, cudaStream_t stream);

/// Positions that one block works on; its results are merged in order.
inline constexpr int kAttentionSpan = 256;
inline std::uint64_t attention_part_bytes(int tokens, int heads, int head_dim, std::int64_t capacity) {
  const auto spans = static_cast<std::uint64_t>((capacity + kAttentionSpan - 1) / kAttentionSpan);
  return spans * static_cast<std::uint64_t>(tokens) * static_cast<std::uint64_t>(heads) *
         static_cast<std::uint64_t>(head_dim + 2) * sizeof(float);
}
/// softmax(q · K / sqrt(head_dim)) · V. The grid reaches to the cache's capacity; blocks beyond a position do nothing.
void launch_attention(const AttentionArgs& args, cudaStream_t stream);

}  // namespace scalebits::cuda
