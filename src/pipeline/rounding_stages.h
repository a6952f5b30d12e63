// The stages of a pipeline in the final rounding: each rounds and tunes its own layers, in step with the others, and
// the first one gets what all have found.
#pragma once

#include "graph/pipeline_stage.h"
#include "refine/refine_model.h"

#include <string>

namespace scalebits {

/// All call the same methods in the same order.
class RoundingStages {
 public:
  /// null: one stage, which has all layers.
  explicit RoundingStages(PipelineStage* pipeline) : pipeline_(pipeline) {}
  double from_first(double mine) const { return from(0, mine); }
  double from_last(double mine) const { return from(count() - 1, mine); }
  bool any(bool mine) const;
  /// Of the state of a tuning: a stage keeps its own levels.
  std::string file_name() const;
  /// The first stage is given the others' blobs, since it has not their codes. A stage whose matrix has no blob packs
  /// it to nearest first, and keeps that, too.
  void collect(PackedBlobs& blobs, const RoundedMatrices& matrices, const BitPlan& plan, const ModelSpec& spec) const;

 private:
  int count() const { return pipeline_ ? pipeline_->count() : 1; }
  double from(int stage, double mine) const;
  PipelineStage* pipeline_;
};

}  // namespace scalebits
