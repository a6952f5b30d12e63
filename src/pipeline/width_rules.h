// Which matrices a recipe rounds, and between which widths; and rounding them all.
#pragma once

#include "model/checkpoint.h"
#include "pipeline/job_processes.h"
#include "pipeline/recipe.h"
#include "rounding/bit_plan.h"
#include "rounding/rounded_matrix.h"

#include <functional>
#include <string>
#include <vector>

namespace scalebits {

/// Embedding or head.
bool is_vocabulary(const std::string& tensor_name);

struct WidthRange {
  bool rounded = true;
  int min = 1, max = 8;
};
WidthRange width_range(const Recipe& recipe, const std::string& tensor_name);

/// Embedding or head, by mode or by a `keep` rule.
bool rounds_vocabulary(const Recipe& recipe);

/// One per matrix of the partition, null where the recipe keeps 16 bits. `importance` is empty or has one entry per
/// matrix. `on_matrix` (may be empty) is told of each matrix before its clip search. Of a job's `processes` (null: this
/// one alone) each has the codes of what its stage runs; their search is shared out over replicas, and they are handed
/// round.
RoundedMatrices round_matrices(const Checkpoint& checkpoint, const Partition& partition,
                               const std::vector<std::vector<float>>& importance, const Recipe& recipe,
                               const std::function<void(const std::string& name)>& on_matrix = {},
                               JobProcesses* processes = nullptr);

/// The same width for every block, as far as the recipe lets it.
BitPlan uniform_plan(const RoundedMatrices& matrices, const Recipe& recipe, int bits);

}  // namespace scalebits
