// How far a model's predictions are from a reference model's on the same windows: KL(reference || model) at each scored
// position. The logits of both exist for some tens of tokens at a time.
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "evaluate/perplexity.h"

namespace scalebits {

struct KlResult {
  WindowMeans kl;             // nats per scored token
  double percentile_99 = 0;   // of the scored tokens
  double top1_agreement = 0;  // share of scored tokens where both models hold the same token likeliest
};
Json to_json(const KlResult& result);

/// Everything two models can be compared by, from one forward pass each; windows correspond, so differences can be
/// paired.
struct Comparison {
  PerplexityResult model, reference;
  KlResult divergence;
};

/// Two models, not one twice, that must have the same vocabulary, else Error(bad_input). The windows are their tokens.
Comparison compare_models(RuntimeModel& model, RuntimeModel& reference, const TextWindows& windows,
                          const SessionOptions& session_options = {}, const ProgressSink& progress = {});

}  // namespace scalebits
