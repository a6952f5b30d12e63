#include "runtime/kv_cache.h"

#include "core/error.h"

#include <algorithm>
#include <cstring>

namespace scalebits {
namespace {

constexpr std::int64_t kLeastPositions = 64;

/// `from` is a view of a layer that is no constant itself; KvLayer shows its bytes read-only, so the cast is ours.
void copy_to(const void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(const_cast<void*>(to), from, bytes);
}

KvLayer grown(const KvLayer& old, std::int64_t capacity, std::int64_t written) {
  KvLayer layer(old.type(), old.kv_heads(), capacity, old.head_dim());
  const auto count = static_cast<std::size_t>(written);
  const std::size_t element = old.type() == KvType::f16 ? 2 : 1;
  for (std::int64_t head = 0; head < old.kv_heads(); ++head) {
    const std::size_t bytes = count * static_cast<std::size_t>(old.head_dim()) * element;
    copy_to(layer.keys(head), old.keys(head), bytes);
    copy_to(layer.values(head), old.values(head), bytes);
    if (old.type() != KvType::i8) continue;
    copy_to(layer.key_scales(head), old.key_scales(head), count * sizeof(float));
    copy_to(layer.value_scales(head), old.value_scales(head), count * sizeof(float));
  }
  return layer;
}

}  // namespace

std::uint64_t KvCache::bytes() const {
  std::uint64_t sum = 0;
  for (const KvLayer& layer : layers_) sum += layer.bytes();
  return sum;
}

void KvCache::reserve(std::int64_t positions, std::int64_t written, std::int64_t limit) {
  SCALEBITS_ASSERT(written <= positions && positions <= limit);
  if (positions <= capacity_) return;
  const std::int64_t capacity = std::min(limit, std::max({positions, 2 * capacity_, kLeastPositions}));
  const auto layers = static_cast<std::size_t>(spec_->layers);
  layers_.reserve(layers);
  // capacity_ is raised when all are grown: an exception in between leaves layers that are larger than they must be.
  for (std::size_t i = 0; i < layers; ++i) {
    if (i == layers_.size())
      layers_.emplace_back(type_, spec_->kv_heads, capacity, spec_->head_dim);
    else if (layers_[i].capacity() < capacity)
      layers_[i] = grown(layers_[i], capacity, written);
  }
  capacity_ = capacity;
}

}  // namespace scalebits
