#include "runtime/kv_cache.h"

namespace scalebits {

KvCache::KvCache(const ModelSpec& spec, KvType type, std::int64_t capacity) {
  layers_.reserve(static_cast<std::size_t>(spec.layers));
  for (std::int64_t i = 0; i < spec.layers; ++i) layers_.emplace_back(type, spec.kv_heads, capacity, spec.head_dim);
}

std::uint64_t KvCache::bytes_per_position() const {
  std::uint64_t sum = 0;
  for (const KvLayer& layer : layers_) sum += layer.bytes() / static_cast<std::uint64_t>(layer.capacity());
  return sum;
}

}  // namespace scalebits
