// What may be looked at during a pass of the decoder. Every tensor is f32, on loan for the duration of the call: its
// memory is reused as soon as the method returns.
#pragma once

#include "model/model_spec.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// The four activations that feed the linear layers of a decoder layer.
enum class InputSite {
  attention,  // q, k, v
  output,     // o
  mlp,        // gate where there is one, up
  down
};

constexpr InputSite input_site(LinearKind kind) {
  switch (kind) {
    case LinearKind::o: return InputSite::output;
    case LinearKind::gate:
    case LinearKind::up: return InputSite::mlp;
    case LinearKind::down: return InputSite::down;
    default: return InputSite::attention;
  }
}

/// What is handed over as the gradient of a linear, the embedding or the head.
enum class GradientKind {
  mean,   // G = Σ_t g_t = d(mean loss)/dW, with g_t = dy_t x_t^T what position t adds
  tokens  // sqrt(Σ_t g_t²), elementwise: the root of the diagonal of the empirical Fisher information
};

class PassObserver {
 public:
  virtual ~PassObserver() = default;

  virtual bool wants_linear_inputs() const { return false; }
  /// x [tokens, cols], during the forward pass, layers ascending. A batch that runs in micro-batches gives one call for
  /// each of them, in order, layer by layer; on another device than the host, one for each piece of their rows.
  virtual void linear_input(std::int64_t /*layer*/, InputSite, const at::Tensor& /*x*/) {}

  virtual bool wants_linear_gradients() const { return true; }
  virtual GradientKind gradient_kind() const { return GradientKind::mean; }
  /// [rows, cols] of the whole batch in the weight's own order, once per linear, layers descending.
  virtual void linear_gradient(std::int64_t /*layer*/, LinearKind, const at::Tensor& /*gradient*/) {}

  virtual bool wants_embedding_gradient() const { return false; }
  /// [vocab, hidden], once, at the end of the pass: the look-up's gradient plus, when tied, the head's.
  virtual void embedding_gradient(const at::Tensor& /*gradient*/) {}
  /// [vocab, hidden], once, before any linear's; only when the head is untied.
  virtual void head_gradient(const at::Tensor& /*gradient*/) {}
};

}  // namespace scalebits
