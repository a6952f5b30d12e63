#include "evaluate/kl.h"

#include "core/error.h"
#include "evaluate/token_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace scalebits {
namespace {

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// The smallest value that at least 99% of the values do not exceed.
double percentile_99(std::vector<double>& values) {
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(0.99 * static_cast<double>(values.size()))) - 1;
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return values[static_cast<std::size_t>(rank)];
}

}  // namespace

Json to_json(const KlResult& result) {
  return {{"kl", result.kl.mean()},
          {"standard_error", result.kl.json_of(result.kl.standard_error())},
          {"percentile_99", result.percentile_99},
          {"top1_agreement", result.top1_agreement},
          {"window_kl", result.kl.windows}};
}

Comparison compare_models(RuntimeModel& model, RuntimeModel& reference, const TextWindows& windows,
                          const SessionOptions& session_options, const ProgressSink& progress) {
  SCALEBITS_ASSERT(&model != &reference);
  const std::int64_t vocab = model.spec().vocab;
  if (vocab != reference.spec().vocab)
    fail_input("the models cannot be compared: {} has a vocabulary of {}, {} of {}", model.source(), vocab,
               reference.source(), reference.spec().vocab);
  Comparison comparison;
  Session session(model, session_options), reference_session(reference, session_options);
  const auto scored = static_cast<std::size_t>(windows.context - 1);
  std::vector<double> losses(scored), reference_losses(scored), divergences(scored), all_divergences;
  std::vector<std::uint8_t> agreements(scored);
  std::int64_t agreement_count = 0;
  for (std::int64_t window = 0; window < windows.count(); ++window) {
    begin_window(progress, window, windows.count());
    const auto ids = windows.window(window);
    session.keep(0);
    reference_session.keep(0);
    const auto score = [&](std::size_t first, std::int64_t rows, const float* logits, const float* reference_logits) {
      model.threads().for_each(rows, [&](std::int64_t row) {
        const auto token = first + static_cast<std::size_t>(row);
        const float* p = reference_logits + row * vocab;
        const float* q = logits + row * vocab;
        losses[token] = negative_log_likelihood(q, vocab, ids[token + 1]);
        reference_losses[token] = negative_log_likelihood(p, vocab, ids[token + 1]);
        const TokenDivergence apart = divergence(q, p, vocab);
        divergences[token] = apart.kl;
        agreements[token] = apart.same_top1;
      });
    };
    // Piece by piece, the model reads what the reference has just read, whose logits are still there.
    reference_session.evaluate_all(
        ids.first(scored), [&](std::int64_t first, std::int64_t rows, const float* reference_logits) {
          const auto piece = ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
          session.evaluate_all(piece, [&](std::int64_t at, std::int64_t some, const float* logits) {
            score(static_cast<std::size_t>(first + at), some, logits, reference_logits + at * vocab);
          });
        });
    comparison.model.nll.windows.push_back(mean_of(losses));
    comparison.reference.nll.windows.push_back(mean_of(reference_losses));
    comparison.divergence.kl.windows.push_back(mean_of(divergences));
    all_divergences.insert(all_divergences.end(), divergences.begin(), divergences.end());
    agreement_count += std::count(agreements.begin(), agreements.end(), 1);
  }
  comparison.divergence.top1_agreement =
      static_cast<double>(agreement_count) / static_cast<double>(all_divergences.size());
  comparison.divergence.percentile_99 = percentile_99(all_divergences);
  return comparison;
}

}  // namespace scalebits
