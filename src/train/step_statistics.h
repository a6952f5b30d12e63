// SNIP's first step: one pass in the operand type that measures, at each linear layer, what every number format would
// do to each of its products and operands. [ours] The paper collects norms of operands and of their quantisation errors
// and bounds what products make of them; here the three products are made in each format and their errors measured.
#pragma once

#include "train/adamw.h"
#include "train/training_graph.h"

#include <cstdint>
#include <map>
#include <vector>

namespace scalebits {

/// Squares of Frobenius norms, unless said otherwise.
struct FormatErrors {
  double input = 0, weight = 0, gradient = 0;  // |Q(x) - x|², |Q(w) - w|², |Q(dy) - dy|², as the products that
                                               // contract over columns read them
  double output = 0;                           // |Q(x) Q(w)^T - x w^T|²
  double loss_slope = 0;                       // <dy, Q(x) Q(w)^T - x w^T>: the loss' first-order change, signed
  double input_gradient = 0;                   // |Q(dy) Q(w) - dy w|²
  double weight_gradient = 0;                  // |Q(dy)^T Q(x) - dy^T x|²
  double update = 0;                           // |u(Q(dy)^T Q(x)) - u(dy^T x)|², u AdamW's update of w
};

struct LinearStatistics {
  double input = 0, weight = 0, output = 0, gradient = 0, weight_gradient = 0;  // |x|², |w|², |y|², |dy|², |dw|²
  std::map<NumberFormat, FormatErrors> errors;
};

struct StepStatistics {
  double loss = 0;
  std::vector<LinearStatistics> linears;  // by linear_index()
};

/// Σ (u(changed) - u(gradient))² with u the update that AdamW makes of the parameter in this step, the learning rate
/// included, weight decay (which is the same) not.
double squared_update_change(const Parameter& parameter, const AdamWOptions& adamw, const AdamWStep& update,
                             const at::Tensor& gradient, const at::Tensor& changed);

class StatisticsCollector : public StepObserver {
 public:
  /// `operands_only`: errors of the operands alone, which takes no products.
  StatisticsCollector(TrainingGraph& graph, std::vector<NumberFormat> formats, const AdamWOptions& adamw,
                      const AdamWStep& update, bool operands_only = false);
  void after_backward(std::size_t linear, ProductInput& x, const at::Tensor& dy) override;
  StepStatistics& statistics() { return statistics_; }
  /// Q(x) Q(w)^T - x w^T in the last of the formats, in the operand type, by linear_index(); none of operands alone.
  std::vector<at::Tensor>& output_errors() { return output_errors_; }

 private:
  TrainingGraph& graph_;
  std::vector<NumberFormat> formats_;
  AdamWOptions adamw_;
  AdamWStep update_;
  bool operands_only_;
  StepStatistics statistics_;
  std::vector<at::Tensor> output_errors_;
};

}  // namespace scalebits
