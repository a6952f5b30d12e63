// A decoder's layers shared out to processes in a row, its stages: each runs some layers and hands the residual stream
// on, and its gradient back. The first one looks tokens up, the last one has the head. How a stage reaches the others
// is not this room's matter.
#pragma once

#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

namespace scalebits {

/// This process's place. Tensors lie in host memory, contiguous, of the same shape and type on both sides.
class PipelineStage {
 public:
  virtual ~PipelineStage() = default;
  virtual int index() const = 0;
  virtual int count() const = 0;
  /// Returns when the tensor may be changed, which may be as late as the other stage wants it.
  virtual void send(const at::Tensor& tensor, int stage) = 0;
  virtual void receive(const at::Tensor& tensor, int stage) = 0;
  /// Overwrites every stage's `tensor` with that of `stage`; all call it.
  virtual void broadcast(const at::Tensor& tensor, int stage) = 0;

  bool is_first() const { return index() == 0; }
  bool is_last() const { return index() + 1 == count(); }
};

/// Layers [first, last).
struct LayerRange {
  std::int64_t first = 0, last = 0;
  std::int64_t count() const { return last - first; }
};
/// Those of stage `index` of `count`, at most as many stages as layers: runs of nearly equal weights, the head counted.
LayerRange stage_layers(const ModelSpec& spec, int count, int index);
/// All of them when `pipeline` is null.
LayerRange own_layers(const ModelSpec& spec, const PipelineStage* pipeline);

/// The stage that is handed the gradient of matrix `matrix`, an index as of linear_index(), the embedding and an untied
/// head behind the linears: a tied embedding's is the last one's, since the head's gradient is larger than the
/// residual stream's.
int stage_of_matrix(const ModelSpec& spec, int count, std::size_t matrix);
/// Whether it is this process's.
bool owns_matrix(const ModelSpec& spec, const PipelineStage* pipeline, std::size_t matrix);
/// Whether this process runs it: its own, and the first stage a tied embedding, in which it looks tokens up.
bool runs_matrix(const ModelSpec& spec, const PipelineStage* pipeline, std::size_t matrix);

}  // namespace scalebits
