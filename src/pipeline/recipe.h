// Every option of a quantisation in one place, as one JSON file: what `--recipe` reads, what each artifact carries, and
// what makes a result repeatable. Names and defaults are documented in docs/recipe.md.
#pragma once

#include "allocate/allocators.h"
#include "core/json.h"
#include "graph/decoder.h"
#include "model/model_spec.h"
#include "partition/partition.h"
#include "refine/refine_model.h"
#include "refine/tune.h"
#include "rounding/rounded_matrix.h"
#include "sensitivity/sensitivity_table.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

/// How embedding and head are stored.
enum class EmbeddingMode { sixteen_bits, eight_bits, search };

/// The squared error that the clip search minimises.
enum class ClipWeighting {
  none,   // no search: the whole range of each group
  plain,  // every weight alike
  inputs  // each input channel by its mean square
};

/// How the weights are rounded once their widths are decided.
enum class FinalRoundingMethod {
  nearest,  // as the search saw them
  gptq,     // with feedback, layer after layer (refine/)
  tuned     // gptq, then codes tuned against the full-precision model (refine/tune.h)
};

std::string_view name_of(FinalRoundingMethod method);
/// Throws Error(usage) listing the known names.
FinalRoundingMethod rounding_from_name(const std::string& name);

/// A tensor name pattern with `*`, and the width that matching matrices keep: 0 to 8, or 16 for unquantised.
struct KeepRule {
  std::string pattern;
  int bits = 16;
};

struct Recipe {
  // What to meet: exactly one of the two.
  std::optional<std::uint64_t> budget_bytes;  // the whole file
  std::optional<double> bpw;                  // all stored bits of the quantised linear layers ÷ their weights

  // What is stored.
  BlockShape blocks;
  GroupOptions groups;
  ClipWeighting clip = ClipWeighting::inputs;
  EmbeddingMode embedding = EmbeddingMode::search;
  std::vector<KeepRule> keep;
  int min_width = 1, max_width = 8;
  int min_embedding_width = 2;  // rows of rare tokens see few gradients

  // Reordering.
  Reordering reordering = Reordering::site;
  GradientKind order_gradient = GradientKind::mean;
  Statistic order_statistic = Statistic::absolute;
  int order_bits = 4;  // uniform width at which the channels are compared

  // The search.
  GradientKind gradient = GradientKind::tokens;
  Statistic statistic = Statistic::fisher;
  CostModel cost_model = CostModel::linear;
  Allocator allocator = Allocator::scalebits;
  int start_bits = 0;  // 0: 4, or more when the budget leaves more
  int descent_steps = 6;
  bool refresh = true;        // false: one gradient at the start serves every step
  double score_memory = 0.5;  // weight of earlier passes in the running mean of scores
  double raise_trust = 1;     // a predicted gain counts this much
  int swap_steps = 6;
  double swap_fraction = 0.05;  // of the blocks, raised per swap step; halved on rejection
  double min_swap_fraction = 0.0005;

  // The final rounding.
  FinalRoundingMethod rounding = FinalRoundingMethod::tuned;
  FeedbackOptions feedback;
  int feedback_windows = 64;
  TuneOptions tune;

  // What is measured.
  LossTarget::Kind loss = LossTarget::Kind::nll;
  int windows_per_gradient = 16;
  int micro_batches = 1;  // that the windows of a pass are scored in, each by itself; processes share them out
  int window_length = 0;  // 0: 512, or the model's positions when there are fewer
  int validation_windows = 16;
  std::uint64_t seed = 1;
  Compute compute = Compute::f32;
};

Json to_json(const Recipe& recipe);
/// Missing keys keep the defaults of `base`; unknown keys and bad values are Errors naming `where` and the key.
Recipe recipe_from_json(const Json& json, const Recipe& base, const std::string& where);
/// `recipe` for a rate of the linear layers in place of any other budget; a searched embedding goes to 16 bits.
Recipe with_rate(Recipe recipe, double bpw);
/// Throws Error(usage) naming what contradicts what.
void validate(const Recipe& recipe);

/// Throws Error(usage) where a `keep` rule names no tensor of the model that `where` is.
void require_rules_used(const Recipe& recipe, const ModelSpec& spec, const std::string& where);

/// The width that the last matching rule keeps; none when no rule matches.
std::optional<int> kept_bits(const Recipe& recipe, const std::string& tensor_name);

}  // namespace scalebits
