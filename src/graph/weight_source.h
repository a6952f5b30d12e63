// Where the decoder gets its weights. It asks each time a layer needs one and drops the tensor after use, so a source
// may make it on the spot (dequantise cached codes, read a mapped file); the decoder keeps no weights of its own.
#pragma once

#include "model/checkpoint.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace scalebits {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// [rows, cols] f32, or in the type of the asking decoder's operands, contiguous, rows and columns in the model's own
  /// order. Read-only; it must stay unchanged while the caller holds it. Asked once per pass and linear: in the forward
  /// pass, and again in the backward pass. This and all others lie where the decoder computes.
  virtual at::Tensor linear(std::int64_t layer, LinearKind kind) = 0;
  /// [vocab, hidden], as linear().
  virtual at::Tensor embedding() = 0;
  /// Its rows `ids` (int64 in host memory, any shape, within the vocabulary) → rows [ids.numel(), hidden] f32, without
  /// making the rest where that can be avoided.
  virtual void embed(const at::Tensor& ids, const at::Tensor& rows);
  /// [vocab, hidden], as linear(); the embedding when tied.
  virtual at::Tensor head() = 0;
  /// Any other tensor by its name, f32, contiguous: a norm's weight, a bias, the table of learned positions.
  virtual at::Tensor vector(const std::string& name) = 0;
};

/// The weights of a checkpoint: mapped f32 tensors as they are (no copy), others converted at each call.
class CheckpointWeights : public WeightSource {
 public:
  /// Shares the checkpoint's bytes, not the struct.
  explicit CheckpointWeights(const Checkpoint& checkpoint);
  at::Tensor linear(std::int64_t layer, LinearKind kind) override;
  at::Tensor embedding() override;
  void embed(const at::Tensor& ids, const at::Tensor& rows) override;
  at::Tensor head() override;
  at::Tensor vector(const std::string& name) override;

 private:
  const HostTensor& stored(const std::string& name) const;
  at::Tensor tensor(const std::string& name) const;
  std::map<std::string, HostTensor> tensors_;
  bool tied_head_;
};

/// A view of `tensor`'s f32 elements (kept alive by the result), or a converted copy when they are 16 bits wide.
at::Tensor to_f32_tensor(const HostTensor& tensor);

/// Rows `rows` (int64) of a matrix → out [rows.numel(), cols] f32, all in host memory.
void copy_rows(const HostTensor& matrix, const at::Tensor& rows, const at::Tensor& out);

}  // namespace scalebits
