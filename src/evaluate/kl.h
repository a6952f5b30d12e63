// How far a model's predictions are from a reference model's on the same windows: KL(reference || model) at each scored
// position. The logits of both exist for some hundred tokens at a time.
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "evaluate/perplexity.h"
#include "graph/decoder.h"
#include "graph/weight_source.h"

#include <ATen/core/Tensor.h>

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

/// `reference_weights` are the reference decoder's own. Both models must share the vocabulary and be equally wide, else
/// Error(bad_input).
Comparison compare_models(Decoder& model, Decoder& reference, WeightSource& reference_weights,
                          const at::Tensor& windows, const ProgressSink& progress = {});

}  // namespace scalebits
