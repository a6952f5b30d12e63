#include "evaluate/perplexity.h"

#include "core/error.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

namespace scalebits {

at::Tensor cut_windows(std::span<const std::int32_t> ids, const WindowOptions& options) {
  if (options.context < 2) fail(ErrorKind::usage, "a context must hold at least 2 tokens, found {}", options.context);
  const std::int64_t text_tokens = options.context - (options.bos ? 1 : 0);
  const auto have = static_cast<std::int64_t>(ids.size());
  std::int64_t count = have / text_tokens;
  if (count == 0)
    fail_input("the text has {} tokens, less than one window of {}; use a smaller context", have, text_tokens);
  if (options.max_windows > 0) count = std::min(count, options.max_windows);
  at::Tensor windows = at::empty({count, options.context}, at::kLong);
  auto* out = windows.data_ptr<std::int64_t>();
  for (std::int64_t window = 0; window < count; ++window) {
    if (options.bos) *out++ = *options.bos;
    out = std::copy_n(ids.begin() + window * text_tokens, text_tokens, out);
  }
  return windows;
}

double WindowMeans::mean() const {
  double sum = 0;
  for (const double value : windows) sum += value;
  return sum / static_cast<double>(windows.size());
}

double WindowMeans::standard_error() const {
  const auto count = static_cast<double>(windows.size());
  if (windows.size() < 2) return 0;
  const double center = mean();
  double squares = 0;
  for (const double value : windows) squares += (value - center) * (value - center);
  return std::sqrt(squares / (count - 1) / count);
}

double PerplexityResult::perplexity() const { return std::exp(nll.mean()); }
double PerplexityResult::standard_error() const { return perplexity() * nll.standard_error(); }

Json to_json(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity()},
          {"standard_error", result.standard_error()},
          {"nll", result.nll.mean()},
          {"nll_standard_error", result.nll.standard_error()},
          {"window_nll", result.nll.windows}};
}

void for_window_batches(const at::Tensor& windows, const ProgressSink& progress,
                        const std::function<void(const at::Tensor&)>& batch) {
  const std::int64_t count = windows.size(0), step = std::max<std::int64_t>(1, kTokensPerBatch / windows.size(1));
  for (std::int64_t first = 0; first < count; first += step) {
    if (interrupt_requested) fail(ErrorKind::interrupted, "the measurement was interrupted");
    if (progress)
      progress({static_cast<double>(first) / static_cast<double>(count), "measuring",
                fmt::format("window {} of {}", first + 1, count)});
    batch(windows.narrow(0, first, std::min(step, count - first)));
  }
}

PerplexityResult measure_perplexity(Decoder& model, const at::Tensor& windows, const ProgressSink& progress) {
  PerplexityResult result;
  for_window_batches(windows, progress, [&](const at::Tensor& ids) {
    const LossResult loss = model.loss(ids, {});
    result.nll.windows.insert(result.nll.windows.end(), loss.window_means.begin(), loss.window_means.end());
  });
  return result;
}

}  // namespace scalebits
