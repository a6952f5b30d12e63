// How true SNIP's predictions are: one linear layer at a time is put into low precision, and what that does to the loss
// and to the next update is measured and held against what the statistics and probes of a single step foretold.
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "train/snip.h"

#include <span>
#include <vector>

namespace scalebits {

struct DivergencePair {
  std::size_t linear = 0;
  LossDivergence predicted_loss;
  WeightDivergence predicted_weight;
  double loss = 0;    // measured rise of the loss, nats per token, signed, mean over the batches
  double weight = 0;  // measured Σ |δu| / |W|, mean over the batches
};

struct DivergenceCheck {
  NumberFormat format = NumberFormat::fp4;
  std::vector<DivergencePair> pairs;  // by linear_index()
};

/// Predicts from the question's batch; measures on each of `batches` [windows, length]: two passes for each linear
/// layer and batch.
DivergenceCheck check_divergences(const SchemeQuestion& question, NumberFormat format,
                                  const std::vector<at::Tensor>& batches, const ProgressSink& progress);

/// Spearman's rank correlation; ties share their mean rank.
double rank_correlation(std::span<const double> a, std::span<const double> b);
/// Share of b's variance that a straight line in a explains.
double explained_variance(std::span<const double> a, std::span<const double> b);

/// Every pair and, over them, rank correlation and R² of loss (absolute value), weight and their parts.
Json to_json(const ModelSpec& spec, const DivergenceCheck& check);

}  // namespace scalebits
