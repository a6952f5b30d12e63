// Both ends of the model in tensor operations: the losses of rows of logits, and the embedding's rows and gradient.
#include "graph/tensor_arithmetic.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

namespace scalebits::tensors {
namespace {

/// Equal ids among so many tokens are added up by one product.
constexpr std::int64_t kTokensPerSum = 512;

at::Tensor sent(std::span<const std::int64_t> numbers, at::Device device) {
  return at::tensor(at::ArrayRef<std::int64_t>(numbers.data(), numbers.size()), at::kLong).to(device);
}

}  // namespace

void token_losses(const LogitRows& all, std::span<float> losses, std::span<std::uint8_t> same_top) {
  const bool kl = all.reference.defined();
  const at::Tensor next = sent(all.next, all.logits.device()).unsqueeze(1), unscored = next.lt(0);
  for_row_pieces(all.logits.size(0), all.logits.size(1), kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    const auto part = [&](const at::Tensor& tensor) { return tensor.narrow(0, first, count); };
    const auto log_softmax = [](const at::Tensor& logits) { return logits - logits.logsumexp(-1, true); };
    at::Tensor slope = log_softmax(part(all.logits)), found, same;
    if (kl) {
      const at::Tensor log_p = log_softmax(part(all.reference)), p = log_p.exp();
      found = p.mul(log_p - slope).sum(-1, false, at::kDouble);
      same = part(all.logits).argmax(-1).eq(part(all.reference).argmax(-1)).to(at::kCPU);
      if (all.gradient.defined()) slope.exp_().sub_(p);
    } else {
      const at::Tensor target = part(next).clamp_min(0);
      found = slope.gather(1, target).neg().squeeze(1);
      if (all.gradient.defined()) slope.exp_(), slope.scatter_(1, target, slope.gather(1, target).sub_(1));
    }
    if (all.gradient.defined()) part(all.gradient).copy_(slope.mul_(all.scale).masked_fill_(part(unscored), 0));
    found = found.to(at::kFloat).to(at::kCPU);
    for (std::int64_t row = 0; row < count; ++row) {
      const auto slot = static_cast<std::size_t>(first + row);
      if (all.next[slot] < 0) continue;
      losses[slot] = found.const_data_ptr<float>()[row];
      if (kl) same_top[slot] = same.const_data_ptr<bool>()[row];
    }
  });
}

void look_up(const at::Tensor& table, const at::Tensor& ids, const at::Tensor& rows) {
  at::Tensor out = rows;
  at::index_select_out(out, table, 0, ids.flatten().to(table.device()));
}

void add_embedding_gradient(const at::Tensor& ids, const at::Tensor& rows, bool squared, const at::Tensor& table) {
  // A table's row has one writer at a time: equal ids are added up by a product with zeros and ones, whose order of
  // sums is fixed, where an indexed sum would add with atomics.
  const ProductPrecision precision(false);
  const auto* id = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t first = 0; first < ids.numel(); first += kTokensPerSum) {
    const std::int64_t count = std::min(kTokensPerSum, ids.numel() - first);
    std::vector<std::int64_t> distinct(id + first, id + first + count), places;
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    for (std::int64_t i = first; i < first + count; ++i)
      places.push_back(std::lower_bound(distinct.begin(), distinct.end(), id[i]) - distinct.begin());
    const auto numbers = table.options().dtype(at::kLong);
    const at::Tensor ones = at::arange(static_cast<std::int64_t>(distinct.size()), numbers)
                                .unsqueeze(1)
                                .eq(sent(places, table.device()))
                                .to(at::kFloat);
    at::Tensor added = rows.narrow(0, first, count);
    if (squared) added = added.mul(added);
    const at::Tensor to = sent(distinct, table.device());
    at::Tensor out = table;
    out.index_copy_(0, to, table.index_select(0, to).add_(ones.mm(added)));
  }
}

}  // namespace scalebits::tensors
