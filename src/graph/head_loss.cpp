#include "graph/head_loss.h"

#include "core/error.h"
#include <ATen/ops/mul.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace scalebits {
namespace {

/// What a batch's pieces share: where they go and in which type.
class Operands {
 public:
  Operands(const HeadLossOptions& options, Workspace& workspace) : options_(options), workspace_(workspace) {}

  /// `tensor` in the operand type, converted into a named buffer when it is not already.
  at::Tensor of(const at::Tensor& tensor, const std::string& name) const {
    if (tensor.scalar_type() == options_.operand) return tensor;
    const at::Tensor converted = workspace_.take(name, tensor.sizes(), options_.operand);
    options_.place.arithmetic->convert(tensor, converted);
    return converted;
  }
  /// Rows of hidden states, brought over first when they lie in host memory.
  at::Tensor of_states(const at::Tensor& rows, const std::string& name) const {
    if (!options_.staged && rows.device() == options_.place.device) return of(rows, name);
    const at::Tensor here = workspace_.take(name + ", exact", rows.sizes(), rows.scalar_type());
    return of(here.copy_(rows), name);
  }

 private:
  const HeadLossOptions& options_;
  Workspace& workspace_;
};

void require_like(const at::Tensor& tensor, at::IntArrayRef shape, const char* what) {
  if (!tensor.defined() || tensor.sizes() != shape || !tensor.is_contiguous())
    throw InternalError(fmt::format("KL target: {} must be a contiguous tensor shaped as the model's", what));
}

}  // namespace

LossResult head_loss(const HeadLossInputs& inputs, const LossTarget& target, const HeadLossOptions& options,
                     const HeadGradients& gradients, Workspace& workspace) {
  const bool kl = target.kind == LossTarget::Kind::kl;
  const std::int64_t windows = inputs.ids.size(0), length = inputs.ids.size(1), tokens = windows * length;
  const std::int64_t hidden = inputs.hidden.size(1), vocab = inputs.head.size(0);
  if (length < 2) fail_input("a window of {} token(s) has no next token to score; windows need at least 2", length);
  if (kl) {
    require_like(target.reference_hidden, {windows, length, hidden}, "the reference's hidden states");
    require_like(target.reference_head, inputs.head.sizes(), "the reference's head");
  }
  const Arithmetic& arithmetic = *options.place.arithmetic;
  const Operands operands(options, workspace);
  const at::Tensor head = operands.of(inputs.head, "head operand");
  const bool same_head = kl && target.reference_head.data_ptr() == inputs.head.data_ptr();
  const at::Tensor reference_head = !kl         ? at::Tensor()
                                    : same_head ? head
                                                : operands.of(target.reference_head, "reference head operand");

  const bool with_gradient = gradients.hidden.defined() || gradients.head.defined();
  const std::int64_t chunk = std::min(options.chunk_tokens, tokens);
  const at::Tensor logits_buffer = workspace.take("logits", {chunk, vocab}, at::kFloat);
  const at::Tensor reference_buffer =
      kl ? workspace.take("reference logits", {chunk, vocab}, at::kFloat) : at::Tensor();
  // f32 gradients overwrite the logits they come from.
  const at::Tensor gradient_buffer = !with_gradient ? at::Tensor()
                                     : options.operand == at::kFloat
                                         ? logits_buffer
                                         : workspace.take("logit gradients", {chunk, vocab}, options.operand);
  const auto scale = static_cast<float>(1.0 / static_cast<double>(windows * (length - 1)));
  const auto* ids = inputs.ids.const_data_ptr<std::int64_t>();
  LossResult result;
  result.token_losses.resize(static_cast<std::size_t>(windows * (length - 1)));
  if (kl) result.top1_agreements.resize(result.token_losses.size());

  std::vector<std::int64_t> next(static_cast<std::size_t>(chunk));
  std::vector<float> losses(next.size());
  std::vector<std::uint8_t> same_top(next.size());
  for (std::int64_t first = 0; first < tokens; first += chunk) {
    const std::int64_t count = std::min(chunk, tokens - first);
    const at::Tensor x = operands.of_states(inputs.hidden.narrow(0, first, count), "head input");
    LogitRows rows{.logits = logits_buffer.narrow(0, 0, count), .scale = scale};
    arithmetic.product_forward(x, head, rows.logits);
    if (kl) {
      const at::Tensor hidden_rows = target.reference_hidden.view({tokens, hidden}).narrow(0, first, count);
      rows.reference = reference_buffer.narrow(0, 0, count);
      arithmetic.product_forward(operands.of_states(hidden_rows, "reference input"), reference_head, rows.reference);
    }
    if (with_gradient) rows.gradient = gradient_buffer.narrow(0, 0, count);
    for (std::int64_t row = 0; row < count; ++row)
      next[static_cast<std::size_t>(row)] = (first + row) % length == length - 1 ? -1 : ids[first + row + 1];
    rows.next = std::span(next).first(static_cast<std::size_t>(count));
    arithmetic.token_losses(rows, losses, same_top);
    for (std::int64_t row = 0; row < count; ++row) {
      const auto from = static_cast<std::size_t>(row);
      if (next[from] < 0) continue;
      const std::int64_t token = first + row;
      const auto slot = static_cast<std::size_t>(token / length * (length - 1) + token % length);
      result.token_losses[slot] = losses[from];
      if (kl) result.top1_agreements[slot] = same_top[from];
    }
    if (!with_gradient) continue;
    const at::Tensor& d_logits = rows.gradient;
    if (gradients.hidden.defined()) {
      const at::Tensor out = gradients.hidden.narrow(0, first, count);
      const at::Tensor here =
          options.staged ? workspace.take("head input gradient", out.sizes(), options.operand) : out;
      arithmetic.product_input_gradient(d_logits, head, here, false);
      if (options.staged) out.copy_(here);
    }
    if (!gradients.head.defined()) continue;
    if (options.squared_head_gradient) {
      at::Tensor squared_logits = d_logits,
                 squared_x = workspace.take("squared head input", x.sizes(), options.operand);
      at::mul_out(squared_logits, d_logits, d_logits);
      at::mul_out(squared_x, x, x);
      arithmetic.product_weight_gradient(squared_logits, squared_x, gradients.head, true);
    } else {
      arithmetic.product_weight_gradient(d_logits, x, gradients.head, true);
    }
  }

  double sum = 0;
  for (std::int64_t window = 0; window < windows; ++window) {
    double window_sum = 0;
    for (std::int64_t i = 0; i < length - 1; ++i)
      window_sum += result.token_losses[static_cast<std::size_t>(window * (length - 1) + i)];
    result.window_means.push_back(window_sum / static_cast<double>(length - 1));
    sum += window_sum;
  }
  result.mean = sum / static_cast<double>(windows * (length - 1));
  if (!std::isfinite(result.mean)) fail_input("the loss is not finite: the model's weights hold NaN or overflow");
  return result;
}

}  // namespace scalebits
