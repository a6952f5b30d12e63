// What the rounding of one input site of one decoder layer needs of its inputs: x of the rounded model, which the layer
// will see when it runs, and x̂ of the full-precision model, which it was made for.
#pragma once

#include "graph/observer.h"

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

namespace scalebits {

/// Keeps the inputs of one layer, all four sites, in host memory: of many tokens they take gigabytes. In f32: rounded
/// to bf16 they brought codes that hang on the order of a sum, and a card's rounding ended elsewhere than the host's.
class LayerInputs : public PassObserver {
 public:
  bool wants_linear_inputs() const override { return true; }
  bool wants_linear_gradients() const override { return false; }
  void linear_input(std::int64_t layer, InputSite site, const at::Tensor& x) override;
  void clear();
  /// Gives away `count` of the pieces of `site` that were handed over, as one: [tokens, cols].
  at::Tensor take(InputSite site, std::size_t first, std::size_t count);

 private:
  std::array<std::vector<at::Tensor>, 4> parts_;
};

/// Second moments of one site of one layer, over all tokens of a pass; [cols, cols] f64, in host memory.
class SiteMoments : public PassObserver {
 public:
  /// `reference` holds the full-precision inputs of the same windows, handed over in the same pieces, and loses those
  /// of the site; or is null.
  SiteMoments(InputSite site, LayerInputs* reference) : site_(site), reference_(reference) {}
  bool wants_linear_inputs() const override { return true; }
  bool wants_linear_gradients() const override { return false; }
  void linear_input(std::int64_t layer, InputSite site, const at::Tensor& x) override;

  /// After the pass, and once.
  void finish();
  const at::Tensor& inputs() const { return inputs_; }           // Σ x xᵀ
  const at::Tensor& differences() const { return difference_; }  // Σ (x̂ − x) xᵀ; undefined without a reference

 private:
  void add_waiting();
  void add(const at::Tensor& x, std::size_t pieces);
  InputSite site_;
  LayerInputs* reference_;
  std::vector<at::Tensor> waiting_;  // pieces of few rows, for a product that is worth its sum
  std::size_t done_ = 0;             // pieces
  at::Tensor inputs_, difference_;   // of inputs_ the lower half, until the end
};

}  // namespace scalebits
