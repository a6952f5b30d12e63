#include "graph/token_losses.h"

#include "graph/elementwise.h"

#include <algorithm>

namespace scalebits {

void token_losses(const LogitRows& rows, std::span<float> losses, std::span<std::uint8_t> same_top) {
  const std::int64_t vocab = rows.logits.size(1);
  with_kernel_type(rows.gradient.defined() ? rows.gradient.scalar_type() : at::kFloat, [&]<typename T>() {
    auto* gradient_data = data_of<T>(rows.gradient);
    for_rows(rows.logits.size(0), vocab, [&](std::int64_t row) {
      const auto slot = static_cast<std::size_t>(row);
      T* gradient = gradient_data ? gradient_data + row * vocab : nullptr;
      if (rows.next[slot] < 0) {
        if (gradient) std::fill_n(gradient, vocab, T{});
        return;
      }
      const float* logits = data_of<float>(rows.logits) + row * vocab;
      if (rows.reference.defined()) {
        bool same = false;
        losses[slot] = static_cast<float>(row_kernels<T>().kl(logits, data_of<float>(rows.reference) + row * vocab,
                                                              vocab, rows.scale, gradient, &same));
        same_top[slot] = same;
      } else {
        losses[slot] = static_cast<float>(row_kernels<T>().nll(logits, vocab, rows.next[slot], rows.scale, gradient));
      }
    });
  });
}

}  // namespace scalebits
