// Codes tuned against the whole model: at fixed widths, the levels of weights, ranges and zeros (tuned_matrix.h) follow
// the gradient that the rounded model sees and are rounded anew in every pass. What is brought down is the divergence
// from the full-precision model on calibration text, so no layer has to imitate its own full-precision outputs. Our own
// form of quantisation-aware distillation. Passes run where the options say; levels lie and move in host memory.
#pragma once

#include "core/json.h"
#include "graph/decoder.h"
#include "model/checkpoint.h"
#include "refine/refine_model.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>

namespace scalebits {

struct TuneOptions {
  int steps = 120;
  int windows_per_step = 2;
  double rate = 0.004;   // codes per step at the start, when the gradient keeps its sign; falls linearly to 0
  double side_rate = 0;  // the same of ranges and zeros
  DecoderOptions decoder;
};

class CodeTuner {
 public:
  /// Keeps references to checkpoint, exact, matrices and plan. `exact`: the checkpoint's weights, where the options'
  /// decoder computes. `start`: what round_with_feedback gave, or empty blobs for
  /// nearest rounding. `ids` [windows, length] int64: calibration text, read in turn.
  CodeTuner(const Checkpoint& checkpoint, WeightSource& exact, const RoundedMatrices& matrices, const BitPlan& plan,
            const PackedBlobs& start, const at::Tensor& ids, const TuneOptions& options);
  ~CodeTuner();

  int steps() const;
  int steps_done() const;
  /// Fewer steps than the options say: at least one more than are done.
  void shorten(int steps);
  /// One step; mean KL of its batch before it, in nats per token. A pipeline's stages make their own levels' steps, and
  /// the last one gets the KL.
  double step();
  /// Of every matrix that is tuned here; empty for others.
  PackedBlobs blobs() const;

  /// Between two steps, atomically; `provenance` says what the work belongs to, `note` is the caller's own.
  void save(const std::filesystem::path& path, const Json& provenance, const Json& note) const;
  /// Goes on from there; returns the note. Throws Error(bad_input) naming the file when it is damaged or belongs to
  /// other work.
  Json load(const std::filesystem::path& path, const Json& provenance);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace scalebits
