// Attention over a cache of keys and values, in blocks, so that it stays fast at tens of thousands of positions.
// The cache of one layer lies head by head: [kv_heads, capacity, head_dim] elements, as f16 or as 8-bit integers with
// one f32 scale per head and position ([kv_heads, capacity]; scale = max|x| / 127, nearest even, 0 where all are 0).
// Memory of positions that were never written costs nothing.
#pragma once

#include "core/thread_pool.h"
#include "kernels/isa.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace scalebits {

enum class KvType { f16, i8 };

/// Keys and values of one layer. Positions [0, length) are written.
class KvLayer {
 public:
  KvLayer(KvType type, std::int64_t kv_heads, std::int64_t capacity, std::int64_t head_dim);

  KvType type() const { return type_; }
  std::int64_t kv_heads() const { return kv_heads_; }
  std::int64_t capacity() const { return capacity_; }
  std::int64_t head_dim() const { return head_dim_; }
  std::uint64_t bytes() const;

  /// Rounds k and v, each [kv_heads, head_dim] f32, into `position` < capacity.
  void store(std::int64_t position, const float* k, const float* v);

  const std::byte* keys(std::int64_t head) const;  // [capacity, head_dim]
  const std::byte* values(std::int64_t head) const;
  const float* key_scales(std::int64_t head) const;  // of i8: [capacity]
  const float* value_scales(std::int64_t head) const;

 private:
  /// Zeros straight from the system, which gives pages when they are written.
  class Pages {
   public:
    explicit Pages(std::uint64_t bytes);
    Pages(Pages&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
    Pages& operator=(Pages&& other) noexcept {
      std::swap(data_, other.data_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Pages();
    std::byte* data() const { return data_; }

   private:
    std::byte* data_ = nullptr;
    std::uint64_t bytes_ = 0;
  };
  std::uint64_t row_bytes() const { return std::uint64_t(head_dim_) * (type_ == KvType::f16 ? 2 : 1); }
  std::uint64_t plane_bytes() const { return std::uint64_t(kv_heads_ * capacity_) * row_bytes(); }
  std::uint64_t scale_bytes() const { return type_ == KvType::f16 ? 0 : std::uint64_t(kv_heads_ * capacity_) * 4; }

  KvType type_;
  std::int64_t kv_heads_, capacity_, head_dim_;
  Pages pages_;  // key scales, value scales, keys, values
};

/// One token's query: q and out are [heads, head_dim] f32; it sees positions [first, last) of its cache.
struct AttentionQuery {
  const KvLayer* cache = nullptr;
  const float* q = nullptr;
  float* out = nullptr;
  std::int64_t first = 0;
  std::int64_t last = 0;
};

/// softmax(q · K / sqrt(head_dim)) · V for every query, heads of a group sharing its kv head. Queries that share a
/// cache and follow each other (a prompt's chunk) are worked on together; its outputs may lie anywhere but in q. All in
/// f32, exp within 2 units of the last place; every instruction set does the same operations in the same order, so a
/// query's result depends on its cache and its positions alone: not on the threads, the other queries or `highest`. A
/// query that sees no position is an InternalError.
void attend(ThreadPool& threads, Isa highest, std::int64_t heads, std::span<const AttentionQuery> queries);

}  // namespace scalebits
