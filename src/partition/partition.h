// The order in which each matrix's channels are stored, and which of these orders cost nothing at run time.
// A stored row i is original output row_order[i]; a stored column j reads original input col_order[j].
// An order with a table is gathered or scattered when the model runs; one without is *folded*: every tensor that
// shares the channel is stored in the same order, so the model as stored computes the same function by itself.
#pragma once

#include "model/model_spec.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

enum class Reordering {
  none,    // the checkpoint's own order
  folded,  // one order of the residual stream, one per MLP's intermediate channels, one inside each KV head of V/O
  site,    // one column order per input site, free rows; the MLP's intermediate channels folded
  free,    // each matrix its own rows and columns
};

std::string_view name_of(Reordering reordering);
/// Throws Error(usage) listing the known names.
Reordering reordering_from_name(std::string_view name);

struct ChannelOrder {
  std::vector<std::uint32_t> order;  // a permutation: stored position → original channel
  std::string table;                 // name of the table in the artifact; empty when folded
};
/// Null means the identity.
using ChannelOrderPtr = std::shared_ptr<const ChannelOrder>;

/// Sums of a sensitivity over each output and each input channel of one matrix, in the original order.
struct ChannelScores {
  std::vector<double> rows, cols;
};

struct MatrixPartition {
  std::string name;
  std::int64_t rows = 0, cols = 0;
  ChannelOrderPtr row_order, col_order;
};

struct Partition {
  Reordering reordering = Reordering::none;
  std::vector<MatrixPartition> matrices;
  /// Orders of the last dimension of tensors that are not partitioned themselves (norms, biases, embedding, positions,
  /// head), of those that the model has among them.
  std::map<std::string, ChannelOrderPtr> dense_orders;
};

/// The matrices a search may quantise: the decoder's linear layers in running order, then the embedding (when
/// `with_embedding`) and, when untied, the head. All in their own order.
Partition identity_partition(const ModelSpec& spec, bool with_embedding);

/// Orders channels by descending score. `scores[i]` belongs to `base.matrices[i]`. The vocabulary's order and the rows
/// of q and k under `folded` (the rotary embedding ties them) are left alone. Equal scores keep their order.
Partition reorder(const ModelSpec& spec, const Partition& base, const std::vector<ChannelScores>& scores,
                  Reordering reordering);

}  // namespace scalebits
