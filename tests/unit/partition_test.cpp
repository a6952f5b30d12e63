// partition: orders are permutations sorted by score, shared where a site or a fold demands it, and never touch what
// the tokenizer or the rotary embedding fixes.
#include "partition/partition.h"

#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace scalebits {
namespace {

ModelSpec spec_of(std::int64_t layers) {
  ModelSpec spec;
  spec.layers = layers, spec.hidden = 32, spec.intermediate = 48, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 8;
  spec.vocab = 40, spec.max_positions = 64;
  return spec;
}

std::vector<ChannelScores> random_scores(const Partition& partition) {
  std::vector<ChannelScores> scores;
  const CounterRng rng(5);
  std::uint64_t draw = 0;
  for (const MatrixPartition& matrix : partition.matrices) {
    ChannelScores channel;
    for (std::int64_t i = 0; i < matrix.rows; ++i) channel.rows.push_back(rng.uniform(draw++));
    for (std::int64_t i = 0; i < matrix.cols; ++i) channel.cols.push_back(rng.uniform(draw++));
    scores.push_back(channel);
  }
  return scores;
}

void expect_permutation(const ChannelOrderPtr& order, std::int64_t size) {
  ASSERT_NE(order, nullptr);
  std::vector<std::uint32_t> sorted = order->order;
  std::sort(sorted.begin(), sorted.end());
  ASSERT_EQ(static_cast<std::int64_t>(sorted.size()), size);
  for (std::size_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], i);
}

class EveryReordering : public testing::TestWithParam<Reordering> {};

TEST_P(EveryReordering, MakesPermutationsAndLeavesVocabularyRowsAlone) {
  const ModelSpec spec = spec_of(2);
  const Partition base = identity_partition(spec, true);
  ASSERT_EQ(base.matrices.size(), 16u);  // 2 x 7 linears, embedding, head
  const Partition partition = reorder(spec, base, random_scores(base), GetParam());
  for (const MatrixPartition& matrix : partition.matrices) {
    if (matrix.row_order) expect_permutation(matrix.row_order, matrix.rows);
    if (matrix.col_order) expect_permutation(matrix.col_order, matrix.cols);
  }
  for (std::size_t i = 14; i < 16; ++i) EXPECT_EQ(partition.matrices[i].row_order, nullptr);
}

INSTANTIATE_TEST_SUITE_P(All, EveryReordering,
                         testing::Values(Reordering::none, Reordering::folded, Reordering::site, Reordering::free));

TEST(Reorder, SortsDescendingAndKeepsTies) {
  const ModelSpec spec = spec_of(1);
  const Partition base = identity_partition(spec, false);
  auto scores = random_scores(base);
  scores[0].rows.assign(scores[0].rows.size(), 1.0);
  scores[0].rows[3] = 2.0;
  const Partition partition = reorder(spec, base, scores, Reordering::free);
  const auto& q = partition.matrices[0];
  EXPECT_EQ(q.row_order->order[0], 3u);
  EXPECT_EQ(q.row_order->order[1], 0u);
  EXPECT_EQ(q.row_order->order[4], 4u);
  for (std::size_t j = 1; j < q.col_order->order.size(); ++j)
    EXPECT_GE(scores[0].cols[q.col_order->order[j - 1]], scores[0].cols[q.col_order->order[j]]);
}

TEST(Reorder, SitesShareTheirColumnsAndFoldTheIntermediateChannels) {
  const ModelSpec spec = spec_of(1);
  const Partition base = identity_partition(spec, false);
  const Partition partition = reorder(spec, base, random_scores(base), Reordering::site);
  const auto matrix = [&](LinearKind kind) { return partition.matrices[static_cast<std::size_t>(kind)]; };
  EXPECT_EQ(matrix(LinearKind::q).col_order, matrix(LinearKind::v).col_order);
  EXPECT_EQ(matrix(LinearKind::gate).col_order, matrix(LinearKind::up).col_order);
  EXPECT_EQ(matrix(LinearKind::gate).row_order, matrix(LinearKind::down).col_order);
  EXPECT_TRUE(matrix(LinearKind::down).col_order->table.empty());
  std::set<std::string> tables;
  for (const MatrixPartition& m : partition.matrices)
    for (const auto& order : {m.row_order, m.col_order})
      if (!order->table.empty()) tables.insert(order->table);
  EXPECT_EQ(tables.size(), 8u);  // three sites' inputs; rows of q, k, v, o, down
}

TEST(Reorder, FoldedOrdersStayInTheirHeadsAndNeedNoTable) {
  const ModelSpec spec = spec_of(1);
  const Partition base = identity_partition(spec, true);
  const Partition partition = reorder(spec, base, random_scores(base), Reordering::folded);
  for (const MatrixPartition& m : partition.matrices)
    for (const auto& order : {m.row_order, m.col_order}) EXPECT_TRUE(!order || order->table.empty());
  EXPECT_EQ(partition.matrices[static_cast<std::size_t>(LinearKind::q)].row_order, nullptr);
  EXPECT_EQ(partition.matrices[static_cast<std::size_t>(LinearKind::k)].row_order, nullptr);
  const auto& v = partition.matrices[static_cast<std::size_t>(LinearKind::v)].row_order->order;
  const auto& o = partition.matrices[static_cast<std::size_t>(LinearKind::o)].col_order->order;
  for (std::size_t head = 0; head < 4; ++head)
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(o[head * 8 + i] / 8, head);
      EXPECT_EQ(o[head * 8 + i] % 8, v[head / 2 * 8 + i] % 8);  // two query heads share a KV head
    }
  const auto residual = partition.dense_orders.at("model.norm.weight");
  EXPECT_EQ(residual, partition.matrices[static_cast<std::size_t>(LinearKind::down)].row_order);
  EXPECT_EQ(residual, partition.matrices[7].col_order);
}

TEST(Reorder, AModelWithoutGateFoldsUpWithDownAndItsPositions) {
  ModelSpec spec = spec_of(2);
  spec.norm = NormKind::layer, spec.mlp = MlpKind::relu, spec.positions = PositionKind::learned;
  const Partition base = identity_partition(spec, true);
  ASSERT_EQ(base.matrices.size(), 14u);  // 2 x 6 linears, embedding, head
  for (const Reordering reordering : {Reordering::folded, Reordering::site, Reordering::free}) {
    const Partition partition = reorder(spec, base, random_scores(base), reordering);
    for (const MatrixPartition& matrix : partition.matrices) {
      if (matrix.row_order) expect_permutation(matrix.row_order, matrix.rows);
      if (matrix.col_order) expect_permutation(matrix.col_order, matrix.cols);
    }
    EXPECT_EQ(partition.matrices[12].row_order, nullptr);
    if (reordering == Reordering::free) continue;
    for (std::int64_t layer = 0; layer < 2; ++layer)
      EXPECT_EQ(partition.matrices[linear_index(spec, layer, LinearKind::up)].row_order,
                partition.matrices[linear_index(spec, layer, LinearKind::down)].col_order);
    if (reordering != Reordering::folded) continue;
    const ChannelOrderPtr residual = partition.matrices[linear_index(spec, 1, LinearKind::down)].row_order;
    for (const auto& [name, shape] : required_tensors(spec))
      if (shape.back() == spec.hidden && shape.size() == 1 && name.find("proj") == std::string::npos) {
        EXPECT_EQ(partition.dense_orders.at(name), residual) << name;
      }
    EXPECT_EQ(partition.dense_orders.at("model.embed_positions.weight"), residual);
    EXPECT_EQ(partition.matrices[linear_index(spec, 0, LinearKind::up)].col_order, residual);
  }
}

}  // namespace
}  // namespace scalebits
