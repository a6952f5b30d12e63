// Every way to decide the widths of a model's blocks, behind one call: what the search uses, what it is compared with,
// and how good any of them could be. Pure functions of tables; they open no file and know no model.
#pragma once

#include "allocate/allocation.h"

#include <cstdint>
#include <string_view>
#include <vector>

namespace scalebits {

enum class Allocator {
  scalebits,        // from a plan, within the limits of a step from it (allocation.h)
  baq,              // water-filling on a Hessian proxy, one price for the model (baq.h)
  baq_layer,        // the same inside each matrix
  fisher_quantile,  // two neighbouring widths, split by salience (baselines.h)
  uniform,          // one width
  per_tensor,       // one width per matrix, the cheapest mix
  exact             // the cheapest plan at the given costs (optimum.h)
};
std::string_view name_of(Allocator allocator);
/// Throws Error(usage) listing the known names.
Allocator allocator_from_name(std::string_view name);

/// What the allocators need; each reads its own part.
struct AllocationProblem {
  Choices choices;  // all read bytes and ranges of widths; scalebits, per-tensor and exact read costs
  std::uint64_t target_bytes = 0;
  BitPlan start;                              // scalebits: what it moves from
  MoveLimits limits;                          // scalebits
  std::vector<std::vector<double>> baq_loss;  // baq, baq-layer: c of each block, [matrix][block]
  std::vector<std::vector<double>> salience;  // fisher-quantile: [matrix][block]
};

/// A plan of no more than the target's bytes. Except for uniform and fisher-quantile, no block (per-tensor: no matrix)
/// can be raised within what is left so that the allocator's own cost falls. Throws Error(bad_input) naming matrix and
/// block for tables that make no sense, Error(infeasible_budget) where no plan fits; only scalebits then lowers every
/// block as far as its limits allow, since more steps may follow.
BitPlan allocate_with(Allocator allocator, const AllocationProblem& problem);

}  // namespace scalebits
