#include "evaluate/perplexity.h"

#include "core/error.h"
#include "evaluate/token_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace scalebits {

TextWindows cut_windows(std::span<const std::int32_t> ids, const WindowOptions& options) {
  if (options.context < 2) fail(ErrorKind::usage, "a context must hold at least 2 tokens, found {}", options.context);
  const std::int64_t text_tokens = options.context - (options.bos ? 1 : 0);
  const auto have = static_cast<std::int64_t>(ids.size());
  std::int64_t count = have / text_tokens;
  if (count == 0)
    fail_input("{} has {} tokens, less than one window of {}; use a smaller context", options.text, have, text_tokens);
  if (options.max_windows > 0) count = std::min(count, options.max_windows);
  TextWindows windows{options.context, {}};
  for (std::int64_t window = 0; window < count; ++window) {
    if (options.bos) windows.ids.push_back(*options.bos);
    const auto first = ids.begin() + window * text_tokens;
    windows.ids.insert(windows.ids.end(), first, first + text_tokens);
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

Json WindowMeans::json_of(double error) const { return windows.size() < 2 ? Json() : Json(error); }

Json to_json(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity()},
          {"standard_error", result.nll.json_of(result.standard_error())},
          {"nll", result.nll.mean()},
          {"nll_standard_error", result.nll.json_of(result.nll.standard_error())},
          {"window_nll", result.nll.windows}};
}

void begin_window(const ProgressSink& progress, std::int64_t window, std::int64_t count) {
  if (interrupt_requested) fail(ErrorKind::interrupted, "the measurement was interrupted");
  if (progress)
    progress({static_cast<double>(window) / static_cast<double>(count), "measuring",
              fmt::format("window {} of {}", window + 1, count)});
}

PerplexityResult measure_perplexity(RuntimeModel& model, const TextWindows& windows,
                                    const SessionOptions& session_options, const ProgressSink& progress) {
  PerplexityResult result;
  Session session(model, session_options);
  const std::int64_t vocab = model.spec().vocab, scored = windows.context - 1;
  std::vector<double> losses(static_cast<std::size_t>(scored));
  for (std::int64_t window = 0; window < windows.count(); ++window) {
    begin_window(progress, window, windows.count());
    const auto ids = windows.window(window);
    session.keep(0);
    session.evaluate_all(ids.first(losses.size()), [&](std::int64_t first, std::int64_t rows, const float* logits) {
      model.threads().for_each(rows, [&](std::int64_t row) {
        const auto token = static_cast<std::size_t>(first + row);
        losses[token] = negative_log_likelihood(logits + row * vocab, vocab, ids[token + 1]);
      });
    });
    result.nll.windows.push_back(std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(scored));
  }
  return result;
}

}  // namespace scalebits
