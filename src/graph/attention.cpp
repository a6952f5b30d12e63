#include "graph/attention.h"

#include "core/aligned_buffer.h"
#include "graph/elementwise.h"
#include "graph/product.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>

namespace scalebits {
namespace {

/// Queries whose scores exist together. With it, of the square of queries and keys little more than the causal half is
/// computed; fewer would make the products too small to be quick.
constexpr std::int64_t kBlock = 128;

struct Sizes {
  std::int64_t windows, length, heads, kv_heads, head_dim, group;
  explicit Sizes(const Attention& tensors)
      : windows(tensors.q.size(0)), length(tensors.q.size(1)), heads(tensors.q.size(2)), kv_heads(tensors.k.size(2)),
        head_dim(tensors.q.size(3)), group(heads / kv_heads) {}
  std::int64_t q_stride() const { return heads * head_dim; }
  std::int64_t kv_stride() const { return kv_heads * head_dim; }
  std::int64_t q_offset(std::int64_t window, std::int64_t head) const {
    return window * length * q_stride() + head * head_dim;
  }
  std::int64_t kv_offset(std::int64_t window, std::int64_t kv_head) const {
    return window * length * kv_stride() + kv_head * head_dim;
  }
  float scale() const { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim))); }
};

/// A run of queries and the keys that any of them sees.
struct Block {
  std::int64_t first, count, first_key, keys;
  Block(std::int64_t first_query, const Sizes& sizes, std::int64_t sliding_window)
      : first(first_query), count(std::min(kBlock, sizes.length - first)),
        first_key(sliding_window == 0 ? 0 : std::max<std::int64_t>(0, first - sliding_window + 1)),
        keys(first + count - first_key) {}
  /// Keys of query number `row` of the block, counted from first_key.
  std::int64_t begin(std::int64_t row, std::int64_t sliding_window) const {
    return sliding_window == 0 ? 0 : std::max<std::int64_t>(0, first + row - sliding_window + 1 - first_key);
  }
  std::int64_t end(std::int64_t row) const { return first + row + 1 - first_key; }
};

/// Uninitialised memory of one task, aligned: products into it, and their last bits, hang on where it lies.
template <typename T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count) : values_(static_cast<std::size_t>(count)) {}
  T* get() { return values_.data(); }

 private:
  AlignedBuffer<T> values_;
};

/// Memory for `count` values of type T: `floats` itself when T is f32, which the kernels may overwrite in place.
template <typename T>
T* reuse(float* floats, Scratch<Bf16>& rounded) {
  if constexpr (std::is_same_v<T, float>) {
    return floats;
  } else {
    return rounded.get();
  }
}
template <typename T>
std::int64_t rounded_count(std::int64_t count) {
  return std::is_same_v<T, float> ? 0 : count;
}

template <typename T>
void attend_typed(const Attention& tensors) {
  const Sizes sizes(tensors);
  const auto& kernels = row_kernels<T>();
  const std::int64_t d = sizes.head_dim, block_scores = std::min(kBlock, sizes.length) * sizes.length;
  at::parallel_for(0, sizes.windows * sizes.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch<float> scores(block_scores), mixed(kBlock * d);
    Scratch<Bf16> rounded(rounded_count<T>(block_scores));
    T* weights = reuse<T>(scores.get(), rounded);
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t window = task / sizes.heads, head = task % sizes.heads;
      const T* q = data_of<T>(tensors.q) + sizes.q_offset(window, head);
      const T* k = data_of<T>(tensors.k) + sizes.kv_offset(window, head / sizes.group);
      const T* v = data_of<T>(tensors.v) + sizes.kv_offset(window, head / sizes.group);
      T* out = data_of<T>(tensors.out) + sizes.q_offset(window, head);
      float* log_sums = data_of<float>(tensors.log_sums) + task * sizes.length;
      for (std::int64_t first = 0; first < sizes.length; first += kBlock) {
        const Block block(first, sizes, tensors.sliding_window);
        multiply_blocks({.transpose_b = true,
                         .m = block.count,
                         .n = block.keys,
                         .k = d,
                         .stride_a = sizes.q_stride(),
                         .stride_b = sizes.kv_stride(),
                         .stride_c = block.keys,
                         .alpha = sizes.scale()},
                        q + first * sizes.q_stride(), k + block.first_key * sizes.kv_stride(), scores.get());
        for (std::int64_t row = 0; row < block.count; ++row)
          log_sums[first + row] =
              kernels.softmax(scores.get() + row * block.keys, block.begin(row, tensors.sliding_window), block.end(row),
                              block.keys, weights + row * block.keys);
        multiply_blocks({.m = block.count,
                         .n = d,
                         .k = block.keys,
                         .stride_a = block.keys,
                         .stride_b = sizes.kv_stride(),
                         .stride_c = d},
                        weights, v + block.first_key * sizes.kv_stride(), mixed.get());
        for (std::int64_t row = 0; row < block.count; ++row)
          kernels.from_f32(mixed.get() + row * d, d, out + (first + row) * sizes.q_stride());
      }
    }
  });
}

template <typename T>
void attend_backward_typed(const Attention& tensors, const AttentionGradient& gradient) {
  const Sizes sizes(tensors);
  const auto& kernels = row_kernels<T>();
  const std::int64_t d = sizes.head_dim, block_scores = std::min(kBlock, sizes.length) * sizes.length;
  // A task is a key head with all its query heads, so that d(k) and d(v) have one writer.
  at::parallel_for(0, sizes.windows * sizes.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch<float> scores(block_scores), d_weights(block_scores), dq(kBlock * d), dk(sizes.length * d),
        dv(sizes.length * d);
    Scratch<Bf16> rounded_weights(rounded_count<T>(block_scores)), rounded_d_scores(rounded_count<T>(block_scores));
    T* weights = reuse<T>(scores.get(), rounded_weights);
    T* d_scores = reuse<T>(d_weights.get(), rounded_d_scores);
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t window = task / sizes.kv_heads, kv_head = task % sizes.kv_heads;
      const std::int64_t kv_offset = sizes.kv_offset(window, kv_head);
      const T* k = data_of<T>(tensors.k) + kv_offset;
      const T* v = data_of<T>(tensors.v) + kv_offset;
      std::fill_n(dk.get(), sizes.length * d, 0.0f);
      std::fill_n(dv.get(), sizes.length * d, 0.0f);
      for (std::int64_t head = kv_head * sizes.group; head < (kv_head + 1) * sizes.group; ++head) {
        const std::int64_t q_offset = sizes.q_offset(window, head);
        const float* log_sums = data_of<float>(tensors.log_sums) + (window * sizes.heads + head) * sizes.length;
        for (std::int64_t first = 0; first < sizes.length; first += kBlock) {
          const Block block(first, sizes, tensors.sliding_window);
          const std::int64_t q_at = q_offset + first * sizes.q_stride();
          const T* q = data_of<T>(tensors.q) + q_at;
          const T* out = data_of<T>(tensors.out) + q_at;
          const T* d_out = data_of<T>(gradient.dout) + q_at;
          const T* block_k = k + block.first_key * sizes.kv_stride();
          const T* block_v = v + block.first_key * sizes.kv_stride();
          const BlockProduct by_key{.transpose_b = true,
                                    .m = block.count,
                                    .n = block.keys,
                                    .k = d,
                                    .stride_a = sizes.q_stride(),
                                    .stride_b = sizes.kv_stride(),
                                    .stride_c = block.keys};
          BlockProduct scaled = by_key;
          scaled.alpha = sizes.scale();
          multiply_blocks(scaled, q, block_k, scores.get());
          multiply_blocks(by_key, d_out, block_v, d_weights.get());
          for (std::int64_t row = 0; row < block.count; ++row) {
            const std::int64_t at = row * block.keys;
            const float shift = kernels.dot(d_out + row * sizes.q_stride(), out + row * sizes.q_stride(), d);
            kernels.softmax_backward(scores.get() + at, d_weights.get() + at, block.begin(row, tensors.sliding_window),
                                     block.end(row), block.keys, log_sums[first + row], shift, weights + at,
                                     d_scores + at);
          }
          multiply_blocks({.m = block.count,
                           .n = d,
                           .k = block.keys,
                           .stride_a = block.keys,
                           .stride_b = sizes.kv_stride(),
                           .stride_c = d,
                           .alpha = sizes.scale()},
                          d_scores, block_k, dq.get());
          T* dq_out = data_of<T>(gradient.dq) + q_at;
          for (std::int64_t row = 0; row < block.count; ++row)
            kernels.from_f32(dq.get() + row * d, d, dq_out + row * sizes.q_stride());
          const BlockProduct by_query{.transpose_a = true,
                                      .m = block.keys,
                                      .n = d,
                                      .k = block.count,
                                      .stride_a = block.keys,
                                      .stride_b = sizes.q_stride(),
                                      .stride_c = d,
                                      .beta = 1};
          scaled = by_query;
          scaled.alpha = sizes.scale();
          multiply_blocks(scaled, d_scores, q, dk.get() + block.first_key * d);
          multiply_blocks(by_query, weights, d_out, dv.get() + block.first_key * d);
        }
      }
      T* dk_out = data_of<T>(gradient.dk) + kv_offset;
      T* dv_out = data_of<T>(gradient.dv) + kv_offset;
      for (std::int64_t row = 0; row < sizes.length; ++row) {
        kernels.from_f32(dk.get() + row * d, d, dk_out + row * sizes.kv_stride());
        kernels.from_f32(dv.get() + row * d, d, dv_out + row * sizes.kv_stride());
      }
    }
  });
}

}  // namespace

void attend(const Attention& tensors) {
  with_kernel_type(tensors.q.scalar_type(), [&]<typename T>() { attend_typed<T>(tensors); });
}

void attend_backward(const Attention& tensors, const AttentionGradient& gradient) {
  with_kernel_type(tensors.q.scalar_type(), [&]<typename T>() { attend_backward_typed<T>(tensors, gradient); });
}

}  // namespace scalebits
