#include "transform/permute.h"

#include "core/hash.h"
#include "core/parallel.h"
#include "transform/residual_stream.h"

#include <cstring>
#include <map>
#include <numeric>

namespace scalebits {
namespace {

/// The orders of a tensor's dimensions; empty: unchanged. A vector has columns only.
struct TensorOrders {
  ChannelPermutation rows, cols;
};
using OrdersByName = std::map<std::string, TensorOrders>;

void check_permutation(const ChannelPermutation& order, std::int64_t channels, const std::string& what) {
  if (order.empty()) return;
  if (static_cast<std::int64_t>(order.size()) != channels)
    fail(ErrorKind::usage, "the order of {} must have {} entries, found {}", what, channels, order.size());
  std::vector<bool> seen(order.size());
  for (const std::uint32_t channel : order) {
    if (channel >= order.size() || seen[channel])
      fail(ErrorKind::usage, "the order of {} is no permutation: channel {} is {}", what, channel,
           channel >= order.size() ? "out of range" : "there twice");
    seen[channel] = true;
  }
}

void check_count(std::size_t found, std::int64_t wanted, const std::string& what) {
  if (found != 0 && static_cast<std::int64_t>(found) != wanted)
    fail(ErrorKind::usage, "{} must be {} or none, found {}", what, wanted, found);
}

void check(const ChannelPermutations& permutations, const ModelSpec& spec) {
  check_permutation(permutations.residual, spec.hidden, "the residual stream");
  check_count(permutations.intermediate.size(), spec.layers, "orders of intermediate channels");
  for (std::size_t layer = 0; layer < permutations.intermediate.size(); ++layer)
    check_permutation(permutations.intermediate[layer], spec.intermediate,
                      fmt::format("layer {}'s intermediate channels", layer));
  check_count(permutations.values.size(), spec.layers, "layers' orders of values");
  for (std::size_t layer = 0; layer < permutations.values.size(); ++layer) {
    const auto& heads = permutations.values[layer];
    check_count(heads.size(), spec.kv_heads, fmt::format("layer {}'s orders of values", layer));
    for (std::size_t head = 0; head < heads.size(); ++head)
      check_permutation(heads[head], spec.head_dim, fmt::format("the values of layer {}, KV head {}", layer, head));
  }
}

void permute_residual(const ChannelPermutation& order, const ModelSpec& spec, OrdersByName& orders) {
  const ResidualTensors touched = residual_tensors(spec);
  for (const std::string& name : touched.last_dimension) orders[name].cols = order;
  for (const std::string& name : touched.norms) orders[name].cols = order;
  for (const std::string& name : touched.first_dimension) orders[name].rows = order;
}

void permute_intermediate(const ChannelPermutation& order, std::int64_t layer, const ModelSpec& spec,
                          OrdersByName& orders) {
  for (const LinearKind kind : mlp_inputs(spec)) {
    orders[linear_name(layer, kind)].rows = order;
    if (has_bias(spec, kind)) orders[bias_name(layer, kind)].cols = order;
  }
  orders[linear_name(layer, LinearKind::down)].cols = order;
}

/// The orders of heads [0, heads) laid end to end, where head h is ordered as KV head h / group.
ChannelPermutation join_heads(const std::vector<ChannelPermutation>& kv_orders, std::int64_t group,
                              std::int64_t head_dim) {
  ChannelPermutation joined;
  ChannelPermutation unchanged(static_cast<std::size_t>(head_dim));
  std::iota(unchanged.begin(), unchanged.end(), 0u);
  for (const ChannelPermutation& kv_order : kv_orders)
    for (std::int64_t i = 0; i < group; ++i) {
      const auto first = static_cast<std::uint32_t>(joined.size());
      for (const std::uint32_t channel : kv_order.empty() ? unchanged : kv_order) joined.push_back(first + channel);
    }
  return joined;
}

void permute_values(const std::vector<ChannelPermutation>& kv_orders, std::int64_t layer, const ModelSpec& spec,
                    OrdersByName& orders) {
  const ChannelPermutation produced = join_heads(kv_orders, 1, spec.head_dim);
  orders[linear_name(layer, LinearKind::v)].rows = produced;
  if (has_bias(spec, LinearKind::v)) orders[bias_name(layer, LinearKind::v)].cols = produced;
  orders[linear_name(layer, LinearKind::o)].cols = join_heads(kv_orders, spec.heads / spec.kv_heads, spec.head_dim);
}

HostTensor gather(const HostTensor& tensor, const TensorOrders& orders) {
  const std::size_t width = size_bytes(tensor.dtype), cols = static_cast<std::size_t>(tensor.shape.back());
  const std::int64_t rows = tensor.elements() / tensor.shape.back();
  auto moved = std::make_shared<std::vector<std::byte>>(tensor.bytes.size());
  parallel_for(rows, [&](std::int64_t row) {
    const std::size_t from_row = orders.rows.empty() ? static_cast<std::size_t>(row) : orders.rows[row];
    const std::byte* const from = tensor.bytes.data() + from_row * cols * width;
    std::byte* const to = moved->data() + static_cast<std::size_t>(row) * cols * width;
    if (orders.cols.empty()) {
      std::memcpy(to, from, cols * width);
      return;
    }
    for (std::size_t col = 0; col < cols; ++col) std::memcpy(to + col * width, from + orders.cols[col] * width, width);
  });
  return {tensor.dtype, tensor.shape, std::span(*moved), moved};
}

void add_to_hash(Hasher& hasher, const ChannelPermutation& order) {
  hasher.update(fmt::format(" {} ", order.size()));
  hasher.update(std::as_bytes(std::span(order)));
}

std::string next_hash(const std::string& hash, const ChannelPermutations& permutations) {
  Hasher hasher;
  hasher.update(hash + " permute");
  add_to_hash(hasher, permutations.residual);
  for (const ChannelPermutation& order : permutations.intermediate) add_to_hash(hasher, order);
  for (const auto& heads : permutations.values)
    for (const ChannelPermutation& order : heads) add_to_hash(hasher, order);
  return hasher.hex();
}

}  // namespace

Checkpoint permute(const Checkpoint& checkpoint, const ChannelPermutations& permutations) {
  const ModelSpec& spec = checkpoint.spec;
  check(permutations, spec);
  OrdersByName orders;
  if (!permutations.residual.empty()) permute_residual(permutations.residual, spec, orders);
  for (std::size_t layer = 0; layer < permutations.intermediate.size(); ++layer)
    if (!permutations.intermediate[layer].empty())
      permute_intermediate(permutations.intermediate[layer], static_cast<std::int64_t>(layer), spec, orders);
  for (std::size_t layer = 0; layer < permutations.values.size(); ++layer)
    if (!permutations.values[layer].empty())
      permute_values(permutations.values[layer], static_cast<std::int64_t>(layer), spec, orders);
  Checkpoint permuted = checkpoint;
  for (const auto& [name, tensor_orders] : orders)
    permuted.tensors[name] = gather(checkpoint.tensor(name), tensor_orders);
  permuted.hash = next_hash(checkpoint.hash, permutations);
  return permuted;
}

}  // namespace scalebits
