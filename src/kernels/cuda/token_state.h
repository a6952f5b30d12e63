// What changes from token to token, in the device's memory, so that one recorded step serves all of them: the token,
// its position and where the keys and values of its sequence lie. One cache holds all the device's layers, one after
// the other, each as kernels/attention.h has them: scales of keys, of values (8-bit alone), keys, values; every plane
// [kv_heads, capacity, head_dim], every scale [kv_heads, capacity].
#pragma once

#include "kernels/cuda/host_device.h"

namespace scalebits::cuda {

struct TokenState {
  std::int32_t id = 0;
  std::int32_t position = 0;
  std::uint8_t* cache = nullptr;
  std::int32_t capacity = 0;    // positions
  std::int32_t eight_bits = 0;  // 1: keys and values are 8-bit integers, 0: f16
};

struct CacheShape {
  int kv_heads = 0, head_dim = 0;

  SCALEBITS_HD std::int64_t slots(std::int64_t capacity) const { return kv_heads * capacity; }
  SCALEBITS_HD std::int64_t scale_bytes(std::int64_t capacity, bool eight_bits) const {
    return eight_bits ? slots(capacity) * 4 : 0;
  }
  SCALEBITS_HD std::int64_t plane_bytes(std::int64_t capacity, bool eight_bits) const {
    return slots(capacity) * head_dim * (eight_bits ? 1 : 2);
  }
  /// Of one layer; a multiple of 256.
  SCALEBITS_HD std::int64_t layer_bytes(std::int64_t capacity, bool eight_bits) const {
    return (2 * (scale_bytes(capacity, eight_bits) + plane_bytes(capacity, eight_bits)) + 255) / 256 * 256;
  }
};

/// Keys (which = 0) or values (1) of one layer of a token's sequence.
struct CachePlane {
  SCALEBITS_HD CachePlane(const TokenState& token, const CacheShape& shape, int layer, int which) {
    const bool i8 = token.eight_bits != 0;
    std::uint8_t* const base = token.cache + layer * shape.layer_bytes(token.capacity, i8);
    scales = reinterpret_cast<float*>(base + which * shape.scale_bytes(token.capacity, i8));
    elements = base + 2 * shape.scale_bytes(token.capacity, i8) + which * shape.plane_bytes(token.capacity, i8);
  }
  float* scales;
  std::uint8_t* elements;
};

}  // namespace scalebits::cuda
