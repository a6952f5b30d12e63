// From q, k and v to what attention reads: biases, norms of heads, rotation; k and v rounded into the cache. q is
// changed in place. One block a head of a token: q's heads, then k's, then v's.
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/half.h"
#include "kernels/cuda/token_state.h"

#include <cfloat>
#include <cmath>

namespace scalebits::cuda {

inline constexpr int kMostHeadDim = 256;

struct RotateAndStore {
  static constexpr int kThreads = 64;
  struct Shared {
    float row[kMostHeadDim];
    Reduction<kThreads> reduction;
  };

  const TokenState* states = nullptr;  // [tokens]
  CacheShape shape;
  int layer = 0;  // of those in the cache
  int tokens = 0;
  int heads = 0;
  float* q = nullptr;        // [tokens, heads, head_dim]
  const float* k = nullptr;  // [tokens, kv_heads, head_dim]
  const float* v = nullptr;
  const float* biases[3] = {};    // of q, k, v: [heads of each, head_dim]; null: none
  const float* q_norm = nullptr;  // [head_dim]; null: none
  const float* k_norm = nullptr;
  float eps = 0;
  const float* cosines = nullptr;  // [positions, head_dim / 2]; null: nothing is turned
  const float* sines = nullptr;

  Grid grid() const {
    return {.x = static_cast<unsigned>(heads + 2 * shape.kv_heads), .y = static_cast<unsigned>(tokens)};
  }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared& shared) const {
    const int token = block.y, dim = shape.head_dim, half = dim / 2;
    const int which = block.x < heads ? 0 : block.x < heads + shape.kv_heads ? 1 : 2;
    const int head = which == 0 ? block.x : (block.x - heads) % shape.kv_heads;
    const TokenState state = states[token];
    const std::int64_t at = (std::int64_t{token} * (which == 0 ? heads : shape.kv_heads) + head) * dim;
    const float* const from = (which == 0 ? q : which == 1 ? k : v) + at;
    const float* const bias = biases[which] == nullptr ? nullptr : biases[which] + head * dim;
    const float* const norm = which == 0 ? q_norm : which == 1 ? k_norm : nullptr;
    block.each([&](int thread) {
      float squares = 0;
      SCALEBITS_KEEP_LOOP for (int i = thread; i < dim; i += kThreads) {
        const float value = from[i] + (bias != nullptr ? bias[i] : 0);
        shared.row[i] = value;
        squares += value * value;
      }
      shared.reduction.values[thread] = squares;
    });
    if (norm != nullptr) {
      const float factor = 1 / sqrtf(shared.reduction.total(block) / static_cast<float>(dim) + eps);
      block.each([&](int thread) {
        SCALEBITS_KEEP_LOOP for (int i = thread; i < dim; i += kThreads) {
          shared.row[i] = shared.row[i] * factor * norm[i];
        }
      });
    }
    if (which < 2 && cosines != nullptr)
      block.each([&](int thread) {
        SCALEBITS_KEEP_LOOP for (int i = thread; i < half; i += kThreads) {
          const std::int64_t angle = std::int64_t{state.position} * half + i;
          const float low = shared.row[i], high = shared.row[i + half];
          shared.row[i] = low * cosines[angle] - high * sines[angle];
          shared.row[i + half] = high * cosines[angle] + low * sines[angle];
        }
      });
    if (which == 0) {
      block.each([&](int thread) {
        SCALEBITS_KEEP_LOOP for (int i = thread; i < dim; i += kThreads) { q[at + i] = shared.row[i]; }
      });
      return;
    }
    const CachePlane plane(state, shape, layer, which - 1);
    const std::int64_t slot = std::int64_t{head} * state.capacity + state.position;
    if (state.eight_bits == 0) {
      block.each([&](int thread) {
        SCALEBITS_KEEP_LOOP for (int i = thread; i < dim; i += kThreads) {
          reinterpret_cast<std::uint16_t*>(plane.elements)[slot * dim + i] = float_to_half(shared.row[i]);
        }
      });
      return;
    }
    block.each([&](int thread) {
      float largest = 0;
      SCALEBITS_KEEP_LOOP for (int i = thread; i < dim; i += kThreads) {
        const float size = fabsf(shared.row[i]);
        largest = size > largest || size != size ? size : largest;
      }
      shared.reduction.values[thread] = largest;
    });
    const float largest = shared.reduction.largest(block);
    const float inverse = largest > 0 ? fminf(127 / largest, FLT_MAX) : 0;  // finite for the tiniest
    block.each([&](int thread) {
      SCALEBITS_KEEP_LOOP for (int i = thread; i < dim; i += kThreads) {
        reinterpret_cast<std::int8_t*>(plane.elements)[slot * dim + i] =
            static_cast<std::int8_t>(rintf(shared.row[i] * inverse));
      }
      if (thread == 0) plane.scales[slot] = largest / 127;
    });
  }
};

}  // namespace scalebits::cuda
