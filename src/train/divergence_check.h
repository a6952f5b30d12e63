// How true SNIP's predictions are: one linear layer at a time is put into low precision, and what that does to the loss
// and to the next update is measured and held against what the statistics and probes of single steps foretold.
// Predicted and measured on different batches; every batch's value is kept, so that the measurement's own reliability
// is known.
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "train/snip.h"

#include <map>
#include <span>
#include <vector>

namespace scalebits {

struct DivergencePair {
  std::size_t linear = 0;
  std::vector<double> loss;    // measured rise of the loss, nats per token, signed, by batch
  std::vector<double> weight;  // measured Σ |δu| / |W|, by batch, of the first two alone
  std::map<LinearProduct, std::vector<double>> weight_of;  // the same with one product alone in low precision
  std::vector<LossDivergence> predicted_loss;              // by predicting batch
  std::vector<WeightDivergence> predicted_weight;
  std::vector<FormatErrors> errors;  // what the predictions were made of
  std::vector<NoiseResponse::Linear> responses;
};

struct DivergenceCheck {
  NumberFormat format = NumberFormat::fp4;
  std::vector<DivergencePair> pairs;  // by linear_index()
};

/// Predicts from each of `predicting` and measures on each of `measuring` (all [windows, length]): a forward pass
/// for each linear layer and measuring batch, and on the first two a whole pass, and one for each product alone. The
/// question's own batch is not looked at.
DivergenceCheck check_divergences(const SchemeQuestion& question, NumberFormat format,
                                  const std::vector<at::Tensor>& predicting, const std::vector<at::Tensor>& measuring,
                                  const ProgressSink& progress);

/// Spearman's rank correlation; ties share their mean rank.
double rank_correlation(std::span<const double> a, std::span<const double> b);
/// Share of b's variance that a straight line in a explains.
double explained_variance(std::span<const double> a, std::span<const double> b);
/// Of the line through the origin that fits best: what a prediction a must be multiplied by to give b.
double slope(std::span<const double> a, std::span<const double> b);
/// Rank correlation that the means over all batches would have with those of as many others: of the means of even and
/// odd batches, stepped up by Spearman and Brown's formula. `values` by layer, then batch; at least two batches.
double split_half_reliability(const std::vector<std::vector<double>>& values);

/// Every pair and, over their means, rank correlation, R² and slope of loss (signed) and weight, and of the parts of
/// the weight divergence, each against its own product alone in low precision; with the measurement's reliability.
Json to_json(const ModelSpec& spec, const DivergenceCheck& check);

}  // namespace scalebits
