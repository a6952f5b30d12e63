#include "graph/head_loss.h"

#include "core/error.h"
#include "graph/elementwise.h"
#include "graph/product.h"

#include <ATen/ops/mul.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace scalebits {
namespace {

/// `tensor` in the operand type, converted into a named buffer when it is not already.
at::Tensor as_operand(const at::Tensor& tensor, at::ScalarType operand, const char* name, Workspace& workspace) {
  if (tensor.scalar_type() == operand) return tensor;
  const at::Tensor converted = workspace.take(name, tensor.sizes(), operand);
  convert(tensor, converted);
  return converted;
}

void require_like(const at::Tensor& tensor, at::IntArrayRef shape, const char* what) {
  if (!tensor.defined() || tensor.scalar_type() != at::kFloat || tensor.sizes() != shape || !tensor.is_contiguous())
    throw InternalError(fmt::format("KL target: {} must be a contiguous f32 tensor shaped as the model's", what));
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
  const auto operand = [&](const at::Tensor& tensor, const char* name) {
    return as_operand(tensor, options.operand, name, workspace);
  };
  const at::Tensor head = operand(inputs.head, "head operand");
  const bool same_head = kl && target.reference_head.data_ptr() == inputs.head.data_ptr();
  const at::Tensor reference_head = !kl         ? at::Tensor()
                                    : same_head ? head
                                                : operand(target.reference_head, "reference head operand");

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

  for (std::int64_t first = 0; first < tokens; first += chunk) {
    const std::int64_t count = std::min(chunk, tokens - first);
    const at::Tensor x = operand(inputs.hidden.narrow(0, first, count), "head input");
    const at::Tensor logits = logits_buffer.narrow(0, 0, count);
    product_forward(x, head, logits);
    at::Tensor reference;
    if (kl) {
      const at::Tensor hidden_rows = target.reference_hidden.view({tokens, hidden}).narrow(0, first, count);
      reference = reference_buffer.narrow(0, 0, count);
      product_forward(operand(hidden_rows, "reference input"), reference_head, reference);
    }
    with_kernel_type(options.operand, [&]<typename T>() {
      auto* gradient_data = data_of<T>(gradient_buffer);
      for_rows(count, vocab, [&](std::int64_t row) {
        const std::int64_t token = first + row, position = token % length;
        T* gradient = gradient_data ? gradient_data + row * vocab : nullptr;
        if (position == length - 1) {
          if (gradient) std::fill_n(gradient, vocab, T{});
          return;
        }
        const auto slot = static_cast<std::size_t>(token / length * (length - 1) + position);
        const float* row_logits = data_of<float>(logits) + row * vocab;
        if (kl) {
          bool same_top = false;
          result.token_losses[slot] = static_cast<float>(row_kernels<T>().kl(
              row_logits, data_of<float>(reference) + row * vocab, vocab, scale, gradient, &same_top));
          result.top1_agreements[slot] = same_top;
        } else {
          result.token_losses[slot] =
              static_cast<float>(row_kernels<T>().nll(row_logits, vocab, ids[token + 1], scale, gradient));
        }
      });
    });
    if (!with_gradient) continue;
    const at::Tensor d_logits = gradient_buffer.narrow(0, 0, count);
    if (gradients.hidden.defined())
      product_input_gradient(d_logits, head, gradients.hidden.narrow(0, first, count), false);
    if (!gradients.head.defined()) continue;
    if (options.squared_head_gradient) {
      at::Tensor squared_logits = d_logits,
                 squared_x = workspace.take("squared head input", x.sizes(), options.operand);
      at::mul_out(squared_logits, d_logits, d_logits);
      at::mul_out(squared_x, x, x);
      product_weight_gradient(squared_logits, squared_x, gradients.head, true);
    } else {
      product_weight_gradient(d_logits, x, gradients.head, true);
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
