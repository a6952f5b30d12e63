// The integer programme that chooses each layer's precision (SNIP, arXiv 2602.01410): minimise Σ Q[l,o] x[l,o] with
// one option per layer, the chosen options' FP4 operations being at least a share of all, in every pipeline stage.
// Solved by CBC, after a Lagrangian relaxation has ruled out the options that no optimum holds. An option may be a
// number format for the whole layer or one for each of its products.
#pragma once

#include <cstddef>
#include <vector>

namespace scalebits {

struct PrecisionOption {
  double cost = 0;       // Q, any sign, finite
  double fp4_flops = 0;  // operations of the layer that run in FP4 under this option, >= 0
};

struct PrecisionProgramme {
  std::vector<std::vector<PrecisionOption>> layers;  // [layer][option], at least one each
  std::vector<double> flops;                         // [layer], > 0: all operations, whatever the option
  double target_share = 0;                           // of the operations in FP4, in [0, 1]; holds in every stage
  std::vector<int> stages;                           // [layer]; empty: all layers are one stage
};

struct PrecisionChoice {
  std::vector<std::size_t> options;  // [layer]
  double cost = 0;
  double fp4_share = 0;  // of all layers together
  double gap = 0;        // no choice costs less by more than this
};

/// The solver stops when nothing can be better by more than this part of the (relaxed) optimum's cost, per stage: far
/// less than the costs are known to, and proving the last of it can take hours. Where options are nearly tied even that
/// would, and the solver stops after so many nodes, the same for the same programme; `gap` says what is left open.
inline constexpr double kPrecisionGap = 1e-6;
inline constexpr int kMostNodes = 20;

/// Among equally good choices any one, but the same for the same programme. Throws Error(infeasible_budget) naming the
/// stage, the wanted share and the range that is feasible, InternalError for malformed programmes.
PrecisionChoice solve(const PrecisionProgramme& programme);

}  // namespace scalebits
