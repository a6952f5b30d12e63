#include "evaluate/kl.h"

#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace scalebits {
namespace {

void append(WindowMeans& means, const LossResult& loss) {
  means.windows.insert(means.windows.end(), loss.window_means.begin(), loss.window_means.end());
}

/// The smallest value that at least 99% of the values do not exceed.
double percentile_99(std::vector<float>& values) {
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(0.99 * static_cast<double>(values.size()))) - 1;
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return values[static_cast<std::size_t>(rank)];
}

}  // namespace

Json to_json(const KlResult& result) {
  return {{"kl", result.kl.mean()},
          {"standard_error", result.kl.standard_error()},
          {"percentile_99", result.percentile_99},
          {"top1_agreement", result.top1_agreement},
          {"window_kl", result.kl.windows}};
}

Comparison compare_models(Decoder& model, Decoder& reference, WeightSource& reference_weights,
                          const at::Tensor& windows, const ProgressSink& progress) {
  if (model.spec().vocab != reference.spec().vocab || model.spec().hidden != reference.spec().hidden)
    fail_input("the models cannot be compared: vocabulary {} and width {}, the reference has {} and {}",
               model.spec().vocab, model.spec().hidden, reference.spec().vocab, reference.spec().hidden);
  Comparison comparison;
  std::vector<float> divergences;
  std::size_t agreements = 0;
  LossTarget target{LossTarget::Kind::kl, {}, reference_weights.head()};
  for_window_batches(windows, progress, [&](const at::Tensor& ids) {
    target.reference_hidden = reference.hidden(ids);
    const at::Tensor hidden = model.hidden(ids);
    append(comparison.model.nll, model.loss_of_hidden(hidden, ids, {}));
    append(comparison.reference.nll, reference.loss_of_hidden(target.reference_hidden, ids, {}));
    const LossResult divergence = model.loss_of_hidden(hidden, ids, target);
    append(comparison.divergence.kl, divergence);
    divergences.insert(divergences.end(), divergence.token_losses.begin(), divergence.token_losses.end());
    agreements +=
        static_cast<std::size_t>(std::count(divergence.top1_agreements.begin(), divergence.top1_agreements.end(), 1));
  });
  comparison.divergence.top1_agreement = static_cast<double>(agreements) / static_cast<double>(divergences.size());
  comparison.divergence.percentile_99 = percentile_99(divergences);
  return comparison;
}

}  // namespace scalebits
