// What a saved descent gives at any size, before anything is packed: plans for many budgets, by any allocator, from its
// saved scores. Runs no model.
#pragma once

#include "allocate/allocators.h"
#include "artifact/artifact_description.h"
#include "core/json.h"
#include "core/progress.h"

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace scalebits {

struct PlanJob {
  std::filesystem::path model;
  std::filesystem::path frontier;      // of quantize --save-frontier, for this model
  std::vector<double> rates;           // bpw of the linear layers, all-in; or
  std::vector<std::uint64_t> budgets;  // bytes of whole files
  std::vector<Allocator> allocators;
};

struct PlannedSize {
  Allocator allocator = Allocator::scalebits;
  ArtifactSizes sizes;
  double cost = 0, least_cost = 0;         // see SearchResult
  std::array<std::uint64_t, 9> weights{};  // of each width, all rounded matrices
  double seconds = 0;
};

/// A point that the descent measured on its way.
struct PassedPoint {
  ArtifactSizes sizes;
  double loss = 0;  // nats per token of that step's calibration batch, nearest rounding
};

struct FrontierPlans {
  std::vector<PassedPoint> passed;
  std::vector<PlannedSize> plans;
};

/// Plans in the order of allocators, then sizes. Throws Error(bad_input) when the frontier belongs to other weights,
/// Error(infeasible_budget) for a size that it does not reach.
FrontierPlans plan_sizes(const PlanJob& job, const ProgressSink& progress);

Json to_json(const FrontierPlans& plans);

}  // namespace scalebits
