// How many bytes a plan takes in the terms of a budget: the whole file's, or the linear layers' alone.
#pragma once

#include "artifact/artifact_description.h"
#include "model/checkpoint.h"
#include "pipeline/recipe.h"
#include "rounding/bit_plan.h"
#include "rounding/rounded_matrix.h"

#include <cstdint>
#include <vector>

namespace scalebits {

/// Zeros until the search is over; they take the bytes that the numbers will. Allocators that look at no gradient have
/// none.
void reserve_sensitivity(ArtifactDescription& description, const Recipe& recipe);

/// Counts plans. The description is made once for each set of orders.
class StoredSize {
 public:
  /// Keeps references.
  StoredSize(const Checkpoint& checkpoint, const Recipe& recipe) : checkpoint_(checkpoint), recipe_(recipe) {}
  /// Bytes of the linear layers where the recipe has a rate, else of the file.
  std::uint64_t operator()(const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan);
  /// All that the plan takes.
  ArtifactSizes sizes(const Partition& partition, const RoundedMatrices& matrices, const BitPlan& plan);

 private:
  const Checkpoint& checkpoint_;
  const Recipe& recipe_;
  std::vector<ChannelOrderPtr> described_;  // the orders that description_ was made for; empty: none yet
  ArtifactDescription description_;
};

/// The recipe's budget, or the bytes of the linear layers at its rate; linears kept at 16 bits are not part of it.
/// Throws Error(usage) where a rate has no linears left.
std::uint64_t budget_bytes(const ModelSpec& spec, const Recipe& recipe);

}  // namespace scalebits
