#include "runtime/kv_cache.h"

namespace scalebits {

KvCache::KvCache(const ModelSpec& spec, KvType type, std::int64_t capacity)
    : KvCache(spec, type, capacity, spec.layers, {}) {}

KvCache::KvCache(const ModelSpec& spec, KvType type, std::int64_t capacity, std::int64_t layers_here,
                 cuda::SequenceCache card)
    : card_(std::move(card)) {
  layers_.reserve(static_cast<std::size_t>(layers_here));
  for (std::int64_t i = 0; i < layers_here; ++i) layers_.emplace_back(type, spec.kv_heads, capacity, spec.head_dim);
}

std::uint64_t KvCache::bytes_per_position() const {
  std::uint64_t sum = card_.capacity == 0 ? 0 : card_.memory.bytes() / static_cast<std::uint64_t>(card_.capacity);
  for (const KvLayer& layer : layers_) sum += layer.bytes() / static_cast<std::uint64_t>(layer.capacity());
  return sum;
}

}  // namespace scalebits
