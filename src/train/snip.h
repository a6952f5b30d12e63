// SNIP (arXiv 2602.01410) put together: measure a step, weigh the divergences of every option, solve the programme.
#pragma once

#include "train/loss_divergence.h"
#include "train/precision_programme.h"
#include "train/scheme_choice.h"
#include "train/weight_divergence.h"

#include <vector>

namespace scalebits {

struct SnipMeasurement {
  StepStatistics statistics;
  NoiseResponse response;
};

/// Three passes over the first probe_windows of the batch: statistics of all `formats`, backward probe, forward probe.
/// Each micro-batch is measured by itself; every number is the mean over them.
SnipMeasurement measure_step(const SchemeQuestion& question, const std::vector<NumberFormat>& formats);
/// One pass: errors of the operands alone.
StepStatistics measure_operands(const SchemeQuestion& question, const std::vector<NumberFormat>& formats);

/// What a layer may run in: `high` or `low` for all of it, or one of the two for each of its products.
std::vector<LinearFormats> scheme_options(NumberFormat high, NumberFormat low, bool per_product);

/// [linear][option]: Q = ΔLoss / Σ ΔLoss(low) + weight_term · ΔWeight / Σ ΔWeight(low), sums over all linear layers.
std::vector<std::vector<double>> snip_costs(const ModelSpec& spec, const SnipMeasurement& measurement,
                                            const std::vector<LinearFormats>& options, NumberFormat low,
                                            double weight_term);
/// [linear][option]: Σ of the norms of the three operands' errors, each relative to its operand's norm if `relative`.
std::vector<std::vector<double>> operand_costs(const StepStatistics& statistics,
                                               const std::vector<LinearFormats>& options, bool relative);

/// Throws Error(infeasible_budget) when no choice among the options meets the share in each stage.
void require_feasible_share(const ModelSpec& spec, const std::vector<LinearFormats>& options, double share,
                            std::int64_t stages);
/// The cheapest choice that does.
PrecisionScheme cheapest_scheme(const ModelSpec& spec, const std::vector<LinearFormats>& options,
                                const std::vector<std::vector<double>>& costs, double share, std::int64_t stages);

}  // namespace scalebits
