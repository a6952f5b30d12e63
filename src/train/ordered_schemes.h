// The rules that SNIP is compared with and that measure nothing: low precision is given to linear layers in an order,
// until the share of operations is reached in each pipeline stage.
#pragma once

#include "train/precision_scheme.h"

#include <cstdint>
#include <vector>

namespace scalebits {

/// By linear_index(): the pipeline stage of each linear layer when the model is cut into equal runs of layers.
std::vector<int> stages_of(const ModelSpec& spec, std::int64_t stages);

/// The middle of the model first, both ends last; within a layer in the order they run.
std::vector<std::size_t> order_by_layer_index(const ModelSpec& spec);
/// Kinds that are held to bear low precision best first: gate, up, down, q, k, o, v; each from first to last layer.
std::vector<std::size_t> order_by_layer_type(const ModelSpec& spec);
std::vector<std::size_t> random_order(const ModelSpec& spec, std::uint64_t seed);

/// `low` for the linear layers in this order until every stage has at least `share`, `high` for the rest. Throws
/// Error(infeasible_budget) when `low` everywhere is not enough. `per_product`: the layers' gradient products get it in
/// this order, and only then their forward products, which the loss feels at once.
PrecisionScheme fill_in_order(const ModelSpec& spec, const std::vector<std::size_t>& order, NumberFormat high,
                              NumberFormat low, double share, std::int64_t stages, bool per_product = false);

}  // namespace scalebits
