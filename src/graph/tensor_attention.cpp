// Attention in tensor operations: runs of windows, and in them blocks of queries whose scores exist together. All
// sums and the softmax are f32; what the host rounds to the operand type between products is rounded here, too.
#include "graph/tensor_arithmetic.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace scalebits::tensors {
namespace {

constexpr std::int64_t kLargestBlock = 256, kSmallestBlock = 16;

struct Sizes {
  std::int64_t windows, length, heads, kv_heads, head_dim, group, block, run;
  explicit Sizes(const Attention& tensors)
      : windows(tensors.q.size(0)), length(tensors.q.size(1)), heads(tensors.q.size(2)), kv_heads(tensors.k.size(2)),
        head_dim(tensors.q.size(3)), group(heads / kv_heads) {
    const std::int64_t fitting = kScoresPiece / (heads * length);
    block = std::min(length, std::clamp(fitting, kSmallestBlock, kLargestBlock));
    run = std::max<std::int64_t>(1, kScoresPiece / (heads * block * length));
  }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim)); }
};

/// Some windows, some queries of each, and the keys that any of these sees.
struct Block {
  std::int64_t window, windows, first, count, first_key, keys;
};

class Attending {
 public:
  explicit Attending(const Attention& tensors)
      : tensors_(tensors), sizes_(tensors), rounds_(tensors.q.scalar_type() != at::kFloat) {}

  /// each_run(first window, windows), then each_block(block) for its blocks, then end_run(first window, windows).
  template <typename EachRun, typename EachBlock, typename EndRun>
  void for_blocks(EachRun&& each_run, EachBlock&& each_block, EndRun&& end_run) const {
    for (std::int64_t window = 0; window < sizes_.windows; window += sizes_.run) {
      const std::int64_t windows = std::min(sizes_.run, sizes_.windows - window);
      each_run(window, windows);
      for (std::int64_t first = 0; first < sizes_.length; first += sizes_.block) {
        const std::int64_t count = std::min(sizes_.block, sizes_.length - first);
        const std::int64_t seen = tensors_.sliding_window;
        const std::int64_t first_key = seen == 0 ? 0 : std::max<std::int64_t>(0, first - seen + 1);
        each_block(Block{window, windows, first, count, first_key, first + count - first_key});
      }
      end_run(window, windows);
    }
  }

  /// Of k or v: [windows * kv_heads, length, head_dim] f32.
  at::Tensor keys_of(const at::Tensor& rows, std::int64_t window, std::int64_t windows) const {
    return rows.narrow(0, window, windows)
        .to(at::kFloat)
        .transpose(1, 2)
        .reshape({windows * sizes_.kv_heads, sizes_.length, sizes_.head_dim});
  }
  void store_keys(const at::Tensor& values, const at::Tensor& rows, std::int64_t window, std::int64_t windows) const {
    rows.narrow(0, window, windows)
        .copy_(values.view({windows, sizes_.kv_heads, sizes_.length, sizes_.head_dim}).transpose(1, 2));
  }
  at::Tensor seen(const at::Tensor& keys, const Block& block) const {
    return keys.narrow(1, block.first_key, block.keys);
  }
  /// Of what is shaped as q: [windows * kv_heads, group * count, head_dim] f32. Query heads that share keys are rows of
  /// one product.
  at::Tensor queries_of(const at::Tensor& rows, const Block& block) const {
    return rows_of(rows, block)
        .to(at::kFloat)
        .reshape({block.windows, block.count, sizes_.kv_heads, sizes_.group, sizes_.head_dim})
        .permute({0, 2, 3, 1, 4})
        .reshape({block.windows * sizes_.kv_heads, sizes_.group * block.count, sizes_.head_dim});
  }
  void store_queries(const at::Tensor& values, const at::Tensor& rows, const Block& block) const {
    rows_of(rows, block)
        .copy_(values.view({block.windows, sizes_.heads, block.count, sizes_.head_dim}).transpose(1, 2));
  }
  /// [windows * kv_heads, group * count, keys]: scaled, minus infinity where a query does not see a key.
  at::Tensor scores(const at::Tensor& q, const at::Tensor& k, const Block& block) const {
    at::Tensor scores = at::bmm(q, seen(k, block).transpose(1, 2)).mul_(static_cast<float>(sizes_.scale()));
    const auto numbers = q.options().dtype(at::kLong);
    const at::Tensor query = at::arange(block.first, block.first + block.count, numbers).unsqueeze(1),
                     key = at::arange(block.first_key, block.first_key + block.keys, numbers).unsqueeze(0);
    at::Tensor hidden = key.gt(query);
    if (tensors_.sliding_window > 0) hidden = hidden.logical_or_(key.le(query - tensors_.sliding_window));
    scores.view({-1, block.count, block.keys}).masked_fill_(hidden, -std::numeric_limits<float>::infinity());
    return scores;
  }
  /// The block's part of log_sums, [windows, heads, count].
  at::Tensor log_sums(const Block& block) const {
    return tensors_.log_sums.narrow(0, block.window, block.windows).narrow(2, block.first, block.count);
  }
  /// To the operand type and back.
  at::Tensor rounded(const at::Tensor& values) const {
    return rounds_ ? values.to(tensors_.q.scalar_type()).to(at::kFloat) : values;
  }
  const Attention& tensors() const { return tensors_; }
  const Sizes& sizes() const { return sizes_; }
  bool rounds() const { return rounds_; }

 private:
  static at::Tensor rows_of(const at::Tensor& rows, const Block& block) {
    return rows.narrow(0, block.window, block.windows).narrow(1, block.first, block.count);
  }
  const Attention& tensors_;
  Sizes sizes_;
  bool rounds_;
};

}  // namespace

void attend(const Attention& tensors) {
  const Attending at_work(tensors);
  const ProductPrecision precision(at_work.rounds());
  at::Tensor k, v;
  at_work.for_blocks(
      [&](std::int64_t window, std::int64_t windows) {
        k = at_work.keys_of(tensors.k, window, windows);
        v = at_work.keys_of(tensors.v, window, windows);
      },
      [&](const Block& block) {
        at::Tensor scores = at_work.scores(at_work.queries_of(tensors.q, block), k, block);
        const at::Tensor log_sums = scores.logsumexp(-1, true);
        at_work.log_sums(block).copy_(log_sums.view({block.windows, at_work.sizes().heads, block.count}));
        const at::Tensor weights = at_work.rounded(scores.sub_(log_sums).exp_());
        at_work.store_queries(at::bmm(weights, at_work.seen(v, block)), tensors.out, block);
      },
      [](std::int64_t, std::int64_t) {});
}

void attend_backward(const Attention& tensors, const AttentionGradient& gradient) {
  const Attending at_work(tensors);
  const ProductPrecision precision(at_work.rounds());
  const double scale = at_work.sizes().scale();
  at::Tensor k, v, dk, dv;
  at_work.for_blocks(
      [&](std::int64_t window, std::int64_t windows) {
        k = at_work.keys_of(tensors.k, window, windows);
        v = at_work.keys_of(tensors.v, window, windows);
        dk = at::zeros_like(k);
        dv = at::zeros_like(v);
      },
      [&](const Block& block) {
        const at::Tensor q = at_work.queries_of(tensors.q, block), d_out = at_work.queries_of(gradient.dout, block);
        const at::Tensor shift = d_out.mul(at_work.queries_of(tensors.out, block)).sum(-1, true);
        at::Tensor weights = at_work.scores(q, k, block);
        weights.sub_(at_work.log_sums(block).reshape({weights.size(0), weights.size(1), 1})).exp_();
        at::Tensor d_scores = at::bmm(d_out, at_work.seen(v, block).transpose(1, 2)).sub_(shift).mul_(weights);
        d_scores = at_work.rounded(d_scores);
        weights = at_work.rounded(weights);
        at_work.store_queries(at::bmm(d_scores, at_work.seen(k, block)).mul_(scale), gradient.dq, block);
        at_work.seen(dk, block).add_(at::bmm(d_scores.transpose(1, 2), q), scale);
        at_work.seen(dv, block).add_(at::bmm(weights.transpose(1, 2), d_out));
      },
      [&](std::int64_t window, std::int64_t windows) {
        at_work.store_keys(dk, gradient.dk, window, windows);
        at_work.store_keys(dv, gradient.dv, window, windows);
      });
}

}  // namespace scalebits::tensors
