// Perplexity of a text: it is cut into consecutive windows that do not overlap, each is predicted from its own tokens
// only, and the first token of each window is not scored. A last piece shorter than a window is left out.
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "graph/decoder.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace scalebits {

struct WindowOptions {
  std::int64_t context = 1024;      // tokens of a window
  std::int64_t max_windows = 0;     // 0: all of the text
  std::optional<std::int32_t> bos;  // stands first in each window, in place of a token of text
};

/// [windows, context] int64. Throws Error(bad_input) when the text does not fill one window, Error(usage) for a context
/// below 2.
at::Tensor cut_windows(std::span<const std::int32_t> ids, const WindowOptions& options);

/// A mean over windows, in nats per scored token, with the standard error that the spread between windows gives.
struct WindowMeans {
  std::vector<double> windows;
  double mean() const;
  double standard_error() const;  // 0 for a single window
};

struct PerplexityResult {
  WindowMeans nll;
  double perplexity() const;
  double standard_error() const;  // of the perplexity, to first order
};
Json to_json(const PerplexityResult& result);

PerplexityResult measure_perplexity(Decoder& model, const at::Tensor& windows, const ProgressSink& progress = {});

/// Windows that go through the model together: the weights are dequantised once for each batch.
inline constexpr std::int64_t kTokensPerBatch = 8192;
/// batch(windows [n, context]) for consecutive runs of windows, with progress and a look at Ctrl-C between them.
void for_window_batches(const at::Tensor& windows, const ProgressSink& progress,
                        const std::function<void(const at::Tensor&)>& batch);

}  // namespace scalebits
