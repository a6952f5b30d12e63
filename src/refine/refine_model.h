// Rounding at fixed widths with feedback, layer after layer: each layer is rounded for the inputs that the layers
// before it, already rounded, give it; and, as far as `asymmetry` says, so that its outputs come near to what the
// full-precision layer gives for full-precision inputs. Embedding and head are rounded to nearest. Passes run where the
// options say; matrices are rounded in host memory.
#pragma once

#include "graph/decoder.h"
#include "model/checkpoint.h"
#include "rounding/bit_plan.h"
#include "rounding/rounded_matrix.h"
#include "sensitivity/search_model.h"

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace scalebits {

struct FeedbackOptions {
  double damping = 0.1;    // of the mean of the Hessian's diagonal, added to it
  double asymmetry = 0.5;  // part of the way from the layer's own weights to those that make up for what the layers
                           // before it did to its inputs (GPTAQ, arXiv 2504.02692)
  int sweeps = 4;          // of descent over the codes that GPTQ gives (code_descent.h)
  bool clip_search = true;
  DecoderOptions decoder;
};

/// One per matrix of the partition; empty for those left to nearest rounding.
using PackedBlobs = std::vector<std::vector<std::byte>>;

/// Fills the blob of matrix `i`, from `blobs` or by nearest rounding.
void pack_refined(const RoundedMatrices& matrices, const BitPlan& plan, const PackedBlobs& blobs, std::size_t i,
                  std::span<std::byte> out);

/// The model as an artifact with these blobs will hold it; matrices without one are rounded to nearest.
class RefinedModel : public SearchModel {
 public:
  /// Keeps references to the arguments; blobs may be added between passes.
  RefinedModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices, const PackedBlobs& blobs)
      : SearchModel(checkpoint, matrices), blobs_(blobs) {}

 private:
  void dequantize(std::size_t index, float* out) override;
  const PackedBlobs& blobs_;
};

/// `exact`: the checkpoint's weights, where the options' decoder computes. `ids` [windows, length] int64: calibration
/// text. `on_layer(layer)` is called before each layer; what it throws ends the work. A pipeline's stages round their
/// own layers, one stage after the other.
PackedBlobs round_with_feedback(const Checkpoint& checkpoint, WeightSource& exact, const RoundedMatrices& matrices,
                                const BitPlan& plan, const at::Tensor& ids, const FeedbackOptions& options,
                                const std::function<void(std::int64_t layer)>& on_layer);

}  // namespace scalebits
