// How a training run decides each linear layer's precision: SNIP, the rules it is compared with, or one format for all.
#pragma once

#include <cstdint>
#include <string>

namespace scalebits {

/// A scheme that was asked for in front of update s runs from update s + this on: meanwhile the programme is solved.
inline constexpr std::uint64_t kInstallDelay = 2;

enum class SchemeKind {
  bf16,            // all products in the operand type
  high,            // all in the high format (fp8)
  low,             // all in the low format (fp4)
  snip,            // measured divergences and an integer programme, every `update_interval` steps
  absolute_error,  // as snip, but the cost is the norm of the operands' quantisation errors
  relative_error,  // the same, each error relative to its operand's norm
  layer_index,     // low in the middle of the model, high at both ends
  layer_type,      // low in the kinds of layers that are held to bear it best: MLP first, then q, k, o, v
  random,          // any that meets the share
  file             // read from `file`
};

struct SchemeOptions {
  SchemeKind kind = SchemeKind::bf16;
  double fp4_share = 0.5;  // of the linear layers' operations
  std::string high = "fp8", low = "fp4";
  bool per_product = false;             // a layer's three products may differ; not for the rules that go by errors
  std::int64_t stages = 1;              // pipeline stages: equal runs of layers, each of which meets the share
  std::uint64_t update_interval = 200;  // steps, at least kInstallDelay where the scheme is measured
  std::int64_t probe_windows = 0;       // of the batch that is measured; 0: half of it
  double noise = 0.03;                  // of the backward probe, relative to what it is added to
  double weight_term = 0.01;            // of the weight divergence against the loss divergence, each normalised
  std::string file;                     // JSON of to_json(PrecisionScheme)
};

}  // namespace scalebits
