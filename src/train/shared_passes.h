// A batch's passes, cut into fixed micro-batches that the processes of a job share out. Sums are made in the order of
// the micro-batches, so that losses and gradients are the same bit for bit from any number of processes.
#pragma once

#include "distributed/process_group.h"
#include "train/training_graph.h"

#include <cstdint>
#include <functional>

namespace scalebits {

struct MicroBatch {
  at::Tensor ids;    // [windows, length] of the batch's
  double share = 1;  // of the batch's windows
  std::int64_t part = 0;
};

class SharedPasses {
 public:
  /// Keeps references. A batch of fewer windows than `micro_batches` is cut into windows.
  SharedPasses(TrainingGraph& graph, ProcessGroup& group, std::int64_t micro_batches)
      : graph_(graph), group_(group), micro_batches_(micro_batches) {}

  TrainingGraph& graph() { return graph_; }

  /// The mean loss of ids [windows, length]. Overwrites all gradients of the parameters with its. `step` goes into the
  /// draws of stochastic rounding, which differ between micro-batches.
  double loss_and_gradients(const at::Tensor& ids, const PrecisionScheme& scheme, std::uint64_t step);
  /// The mean loss over all windows, `windows_per_pass` at a time, which is the only thing that the result depends on.
  double loss(const at::Tensor& ids, const PrecisionScheme& scheme, std::int64_t windows_per_pass);
  /// Mean over the micro-batches of `ids`, each as its share of windows, of tables [rows, cols] of f64. Everywhere the
  /// same.
  at::Tensor mean(const at::Tensor& ids, at::IntArrayRef sizes, const std::function<at::Tensor(const MicroBatch&)>& of);

 private:
  std::int64_t count_of(const at::Tensor& ids) const;
  MicroBatch micro_batch(const at::Tensor& ids, std::int64_t part) const;

  TrainingGraph& graph_;
  ProcessGroup& group_;
  std::int64_t micro_batches_;
};

}  // namespace scalebits
