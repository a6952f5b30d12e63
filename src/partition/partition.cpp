#include "partition/partition.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <span>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<Reordering, std::string_view> kNames[] = {
    {Reordering::none, "none"}, {Reordering::folded, "folded"}, {Reordering::site, "site"}, {Reordering::free, "free"}};

using Scores = std::vector<double>;

void add_to(Scores& sum, std::span<const double> scores) {
  if (sum.empty()) sum.assign(scores.size(), 0.0);
  SCALEBITS_ASSERT(sum.size() == scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) sum[i] += scores[i];
}

/// Appends first + argsort of `scores`, descending and stable, to `order`.
void append_descending(std::vector<std::uint32_t>& order, std::span<const double> scores, std::size_t first = 0) {
  const auto begin = static_cast<std::ptrdiff_t>(order.size());
  order.resize(order.size() + scores.size());
  std::iota(order.begin() + begin, order.end(), static_cast<std::uint32_t>(first));
  std::stable_sort(order.begin() + begin, order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return scores[a - first] > scores[b - first]; });
}

ChannelOrderPtr descending_order(std::span<const double> scores, std::string table) {
  auto result = std::make_shared<ChannelOrder>();
  append_descending(result->order, scores);
  result->table = std::move(table);
  return result;
}

/// The matrices of one decoder layer and their scores, by kind.
struct LayerMatrices {
  const ModelSpec& spec;
  std::int64_t index;
  std::span<MatrixPartition> matrices;  // of all layers
  std::span<const ChannelScores> scores;
  MatrixPartition& matrix(LinearKind kind) const { return matrices[linear_index(spec, index, kind)]; }
  const ChannelScores& score(LinearKind kind) const { return scores[linear_index(spec, index, kind)]; }

  Scores row_sum(std::span<const LinearKind> kinds) const {
    Scores sum;
    for (const LinearKind kind : kinds) add_to(sum, score(kind).rows);
    return sum;
  }
  Scores col_sum(std::span<const LinearKind> kinds) const {
    Scores sum;
    for (const LinearKind kind : kinds) add_to(sum, score(kind).cols);
    return sum;
  }
};

constexpr std::array kAttentionInputs = {LinearKind::q, LinearKind::k, LinearKind::v};

void fold_intermediate(const LayerMatrices& layer, Partition& partition) {
  const auto inputs = mlp_inputs(layer.spec);
  Scores sum = layer.row_sum(inputs);
  add_to(sum, layer.score(LinearKind::down).cols);
  const ChannelOrderPtr order = descending_order(sum, "");
  for (const LinearKind kind : inputs) {
    layer.matrix(kind).row_order = order;
    partition.dense_orders[bias_name(layer.index, kind)] = order;
  }
  layer.matrix(LinearKind::down).col_order = order;
}

/// Channels of V move inside their KV head; every query head of the group reads them in the same order.
void fold_values(const LayerMatrices& layer, Partition& partition) {
  const ModelSpec& spec = layer.spec;
  const auto head_dim = static_cast<std::size_t>(spec.head_dim);
  const auto group = static_cast<std::size_t>(spec.heads / spec.kv_heads);
  auto v_rows = std::make_shared<ChannelOrder>(), o_cols = std::make_shared<ChannelOrder>();
  for (std::size_t kv_head = 0; kv_head < static_cast<std::size_t>(spec.kv_heads); ++kv_head) {
    const std::size_t first = kv_head * head_dim;
    const std::span v_scores(layer.score(LinearKind::v).rows), o_scores(layer.score(LinearKind::o).cols);
    Scores sum(v_scores.begin() + first, v_scores.begin() + first + head_dim);
    for (std::size_t query = 0; query < group; ++query)
      add_to(sum, o_scores.subspan((kv_head * group + query) * head_dim, head_dim));
    append_descending(v_rows->order, sum, first);
    for (std::size_t query = 0; query < group; ++query)
      for (std::size_t i = 0; i < head_dim; ++i)
        o_cols->order.push_back(
            static_cast<std::uint32_t>((kv_head * group + query) * head_dim + v_rows->order[first + i] - first));
  }
  layer.matrix(LinearKind::v).row_order = v_rows;
  layer.matrix(LinearKind::o).col_order = o_cols;
  partition.dense_orders[bias_name(layer.index, LinearKind::v)] = v_rows;
}

void fold_residual(const ModelSpec& spec, std::span<const ChannelScores> scores, Partition& partition) {
  std::vector<bool> writes(partition.matrices.size());  // the others read it
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : {LinearKind::o, LinearKind::down}) writes[linear_index(spec, layer, kind)] = true;
  Scores sum;
  for (std::size_t i = 0; i < partition.matrices.size(); ++i) add_to(sum, writes[i] ? scores[i].rows : scores[i].cols);
  const ChannelOrderPtr order = descending_order(sum, "");
  for (std::size_t i = 0; i < partition.matrices.size(); ++i)
    (writes[i] ? partition.matrices[i].row_order : partition.matrices[i].col_order) = order;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const char* suffix : {"input_layernorm.weight", "input_layernorm.bias", "post_attention_layernorm.weight",
                               "post_attention_layernorm.bias", "self_attn.o_proj.bias", "mlp.down_proj.bias"})
      partition.dense_orders[layer_tensor(layer, suffix)] = order;
  for (const std::string_view name : {kEmbeddingName, kPositionsName, kFinalNormName, kHeadName})
    partition.dense_orders[std::string(name)] = order;
  partition.dense_orders[norm_bias_name(kFinalNormName)] = order;
}

void order_by_site(const LayerMatrices& layer) {
  const auto table = [&](const char* name) { return layer_tensor(layer.index, name); };
  const ChannelOrderPtr attention = descending_order(layer.col_sum(kAttentionInputs), table("attention.input_order"));
  for (const LinearKind kind : kAttentionInputs) layer.matrix(kind).col_order = attention;
  const auto mlp_kinds = mlp_inputs(layer.spec);
  const ChannelOrderPtr mlp = descending_order(layer.col_sum(mlp_kinds), table("mlp.input_order"));
  for (const LinearKind kind : mlp_kinds) layer.matrix(kind).col_order = mlp;
  layer.matrix(LinearKind::o).col_order =
      descending_order(layer.score(LinearKind::o).cols, table("output.input_order"));
  for (const LinearKind kind : {LinearKind::q, LinearKind::k, LinearKind::v, LinearKind::o, LinearKind::down})
    layer.matrix(kind).row_order = descending_order(layer.score(kind).rows, layer.matrix(kind).name + ".row_order");
}

}  // namespace

std::string_view name_of(Reordering reordering) {
  for (const auto& [value, name] : kNames)
    if (value == reordering) return name;
  throw InternalError("unknown reordering");
}

Reordering reordering_from_name(std::string_view name) {
  for (const auto& [value, known] : kNames)
    if (known == name) return value;
  fail(ErrorKind::usage, "unknown reordering '{}'; known are none, folded, site, free", name);
}

Partition identity_partition(const ModelSpec& spec, bool with_embedding) {
  Partition partition;
  const auto add = [&](std::string name, std::int64_t rows, std::int64_t cols) {
    partition.matrices.push_back({std::move(name), rows, cols, nullptr, nullptr});
  };
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    for (const LinearKind kind : linear_kinds(spec)) {
      const auto [rows, cols] = linear_shape(spec, kind);
      add(linear_name(layer, kind), rows, cols);
    }
  if (with_embedding) {
    add(std::string(kEmbeddingName), spec.vocab, spec.hidden);
    if (!spec.tied_head) add(std::string(kHeadName), spec.vocab, spec.hidden);
  }
  return partition;
}

Partition reorder(const ModelSpec& spec, const Partition& base, const std::vector<ChannelScores>& scores,
                  Reordering reordering) {
  SCALEBITS_ASSERT(scores.size() == base.matrices.size());
  Partition partition = base;
  partition.reordering = reordering;
  if (reordering == Reordering::none) return partition;
  const std::span all_scores(scores);
  for (std::int64_t index = 0; index < spec.layers; ++index) {
    const LayerMatrices layer{spec, index, partition.matrices, all_scores};
    if (reordering == Reordering::free) {
      for (const LinearKind kind : linear_kinds(spec)) {
        MatrixPartition& matrix = layer.matrix(kind);
        matrix.row_order = descending_order(layer.score(kind).rows, matrix.name + ".row_order");
        matrix.col_order = descending_order(layer.score(kind).cols, matrix.name + ".input_order");
      }
      continue;
    }
    if (reordering == Reordering::site) order_by_site(layer);
    if (reordering == Reordering::folded) fold_values(layer, partition);
    fold_intermediate(layer, partition);
  }
  if (reordering == Reordering::folded) fold_residual(spec, all_scores, partition);
  // The vocabulary's order is the tokenizer's; only the columns of embedding and head may move.
  for (std::size_t i = linear_count(spec); i < partition.matrices.size(); ++i)
    if (reordering == Reordering::site || reordering == Reordering::free)
      partition.matrices[i].col_order = descending_order(scores[i].cols, partition.matrices[i].name + ".input_order");
  return partition;
}

}  // namespace scalebits
