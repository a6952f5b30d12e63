// How a decoder's batch goes through its layers: cut into micro-batches of windows that fit, what spans the batch lying
// at the place or in host memory, layers kept or run again, and the borders to other stages. decoder.h makes passes of
// it.
#pragma once

#include "graph/decoder.h"
#include "graph/head_loss.h"
#include "graph/layer.h"
#include "graph/workspace.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace scalebits {

/// A model's passes over batches, piece by piece, with the memory they reuse. All that decoder.h says of threads and
/// determinism holds here.
struct DecoderPasses {
  ModelSpec spec;
  WeightSource& weights;
  at::ScalarType operand;
  ComputePlace place;
  std::uint64_t budget_bytes;
  PipelineStage* pipeline;
  RopeTable rope;
  LayerRange own = own_layers(spec, pipeline);
  Workspace workspace{place.device}, host_workspace{at::kCPU};

  /// Consecutive windows that run through a layer together.
  struct MicroBatch {
    std::int64_t first_window, windows;
  };
  /// What a pass over one batch keeps and how it is cut.
  struct Plan {
    std::int64_t windows = 0, length = 0;
    std::int64_t number = 0;  // of the batch among those begun together
    bool keep_all = false;    // every layer's activations are kept; else only layer inputs, and layers run again
    bool staged = false;      // what spans the whole batch lies in host memory; a micro-batch's rows are brought over
    std::vector<MicroBatch> batches;
    std::int64_t tokens() const { return windows * length; }
  };

  Plan plan(const at::Tensor& ids, bool backward, std::int64_t number = 0, std::int64_t begun = 1);
  LayerActivations activations(const Plan& plan, std::int64_t layer, const MicroBatch& batch, const at::Tensor& x);
  const Arithmetic& run() const { return *place.arithmetic; }
  static at::Tensor rows_of(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch);
  /// A tensor [tokens, width] that spans the whole batch.
  at::Tensor spanning(const Plan& plan, const std::string& name, at::ScalarType type) {
    return (plan.staged ? host_workspace : workspace).take(name, {plan.tokens(), spec.hidden}, type);
  }
  /// Room for a micro-batch's rows of a spanning tensor at the place: the rows themselves, unless they lie in host
  /// memory. fetched() has them filled; store() puts them back.
  at::Tensor room(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch, const char* buffer) {
    const at::Tensor rows = rows_of(plan, tensor, batch);
    return plan.staged ? workspace.take(buffer, rows.sizes(), rows.scalar_type()) : rows;
  }
  at::Tensor fetched(const Plan& plan, const at::Tensor& tensor, const MicroBatch& batch, const char* buffer) {
    const at::Tensor rows = room(plan, tensor, batch, buffer);
    return plan.staged ? rows.copy_(rows_of(plan, tensor, batch)) : rows;
  }
  static void store(const Plan& plan, const at::Tensor& rows, const at::Tensor& tensor, const MicroBatch& batch) {
    if (plan.staged) rows_of(plan, tensor, batch).copy_(rows);
  }
  LayerContext context(const Plan& plan, const MicroBatch& batch) {
    return {spec, rope, workspace, operand, batch.windows, plan.length, 0, run().attend, run()};
  }
  void embed(const at::Tensor& ids, const Plan& plan, const at::Tensor& x);
  bool is_first() const { return !pipeline || pipeline->is_first(); }
  bool is_last() const { return !pipeline || pipeline->is_last(); }
  /// A tensor that spans the batch, to and from another stage.
  void send(const at::Tensor& tensor, int stage);
  void receive(const at::Tensor& tensor, int stage);
  void send_to_next(const at::Tensor& x) {
    if (!is_last()) send(x, pipeline->index() + 1);
  }
  /// Fills the input of the first layer that is here: from the tokens, or from the stage before.
  void enter(const at::Tensor& ids, const Plan& plan, const at::Tensor& x) {
    is_first() ? embed(ids, plan, x) : receive(x, pipeline->index() - 1);
  }
  void add_embedding_gradients(const at::Tensor& ids, const Plan& plan, const at::Tensor& dx, bool squared,
                               const at::Tensor& table);
  /// A copy in host memory of a tensor that spans the batch, [windows, length, hidden].
  at::Tensor handed_out(const Plan& plan, const at::Tensor& rows) const {
    return rows.view({plan.windows, plan.length, spec.hidden}).to(at::kCPU, rows.scalar_type(), false, /*copy=*/true);
  }
  LossResult loss_of(const at::Tensor& ids, const at::Tensor& rows, const LossTarget& target, bool staged,
                     bool squared = false, const HeadGradients& gradients = {});
  at::Tensor forward(const at::Tensor& ids, const Plan& plan, bool backward_follows, PassObserver* observer);
  void run_layer(const Plan& plan, std::int64_t layer, const at::Tensor& x, const at::Tensor& y, PassObserver* observer,
                 std::optional<InputSite> from = {}, std::optional<InputSite> until = {});
  at::Tensor layer_input(const Plan& plan, std::int64_t layer) {
    return spanning(plan, fmt::format("input of layer {}, {}", layer, plan.number), at::kFloat);
  }
  at::Tensor squared(const at::Tensor& x, const char* buffer);
  void backward(const Plan& plan, const at::Tensor& dx, PassObserver& observer);
  at::Tensor final_norm(const Plan& plan, const at::Tensor& x);
  void final_norm_backward(const Plan& plan, const at::Tensor& d_hidden, const at::Tensor& x, const at::Tensor& dx);
  void check(const at::Tensor& ids) const;
};

}  // namespace scalebits
