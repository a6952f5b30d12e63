// The f32 master weights of a model in training, with their gradients and the state of AdamW. The training graph reads
// them as any decoder reads its weights. All lie where the training computes, which is said here and nowhere else.
#pragma once

#include "graph/weight_source.h"
#include "model/checkpoint.h"
#include "train/train_arithmetic.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace scalebits {

/// All four tensors are f32, contiguous and of one shape.
struct Parameter {
  std::string name;
  at::Tensor value, gradient;
  at::Tensor mean, square;  // AdamW's running means of the gradient and of its square
  bool decays = false;      // weight decay: matrices, not norms
};

class Parameters : public WeightSource {
 public:
  /// Values as models of this kind are begun with: normal of deviation 0.02, the two projections onto the residual
  /// stream of deviation 0.02 / sqrt(2 layers), norms one. A pure function of the specification and the seed.
  static Parameters random(const ModelSpec& spec, std::uint64_t seed, const TrainPlace& place = {});
  /// A copy of the checkpoint's values, in f32; AdamW's state is zero.
  static Parameters from_checkpoint(const Checkpoint& checkpoint, const TrainPlace& place = {});

  const ModelSpec& spec() const { return spec_; }
  const TrainPlace& place() const { return place_; }
  /// In the order of required_tensors().
  std::vector<Parameter>& all() { return all_; }
  const std::vector<Parameter>& all() const { return all_; }
  Parameter& at(const std::string& name);
  Parameter& of_linear(std::int64_t layer, LinearKind kind) { return at(linear_name(layer, kind)); }
  /// The embedding's when tied.
  Parameter& of_head() { return at(std::string(spec_.tied_head ? kEmbeddingName : kHeadName)); }

  at::Tensor linear(std::int64_t layer, LinearKind kind) override { return of_linear(layer, kind).value; }
  at::Tensor embedding() override { return at(std::string(kEmbeddingName)).value; }
  void embed(const at::Tensor& ids, const at::Tensor& rows) override {
    place_.arithmetic->look_up(embedding(), ids, rows);
  }
  at::Tensor head() override { return of_head().value; }
  at::Tensor vector(const std::string& name) override { return at(name).value; }

  /// The values in host memory: views, which change with them, where they lie there, else copies.
  std::map<std::string, HostTensor> host_tensors() const;

 private:
  Parameters(const ModelSpec& spec, const TrainPlace& place);
  ModelSpec spec_;
  TrainPlace place_;
  std::vector<Parameter> all_;
  std::unordered_map<std::string, std::size_t> index_;
};

/// Throws Error(bad_input) naming `where` and what is not known to the training graph: it trains decoders of Llama's
/// kind (RMSNorm, rotary positions, SwiGLU, no biases, no norms of q and k).
void require_trainable(const ModelSpec& spec, const std::string& where);

}  // namespace scalebits
