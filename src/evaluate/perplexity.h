// Perplexity of a text: it is cut into consecutive windows that do not overlap, each is predicted from its own tokens
// only, and the first token of each window is not scored. A last piece shorter than a window is left out.
#pragma once

#include "core/json.h"
#include "core/progress.h"
#include "runtime/session.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

/// Tokens of a window where none are named and the model has as many positions.
inline constexpr std::int64_t kUsualContext = 1024;

struct WindowOptions {
  std::int64_t context = kUsualContext;  // tokens of a window
  std::int64_t max_windows = 0;          // 0: all of the text
  std::optional<std::int32_t> bos;       // stands first in each window, in place of a token of text
  std::string text = "the text";         // its name, for errors
};

/// Windows of `context` tokens, one after the other.
struct TextWindows {
  std::int64_t context = 0;
  std::vector<std::int32_t> ids;

  std::int64_t count() const { return static_cast<std::int64_t>(ids.size()) / context; }
  std::span<const std::int32_t> window(std::int64_t index) const {
    return std::span(ids).subspan(static_cast<std::size_t>(index * context), static_cast<std::size_t>(context));
  }
};

/// Throws Error(bad_input) when the text does not fill one window, Error(usage) for a context below 2.
TextWindows cut_windows(std::span<const std::int32_t> ids, const WindowOptions& options);

/// A mean over windows, in nats per scored token, with the standard error that the spread between windows gives.
struct WindowMeans {
  std::vector<double> windows;
  double mean() const;
  double standard_error() const;  // 0 for a single window, which tells nothing of it
  /// An error that comes from the spread: null for a single window.
  Json json_of(double error) const;
};

struct PerplexityResult {
  WindowMeans nll;
  double perplexity() const;
  double standard_error() const;  // of the perplexity, to first order
};
Json to_json(const PerplexityResult& result);

/// Each window is read by a session with these options. Throws Error as Session::evaluate does.
PerplexityResult measure_perplexity(RuntimeModel& model, const TextWindows& windows,
                                    const SessionOptions& session_options = {}, const ProgressSink& progress = {});

/// Tells of a window's beginning. Throws Error(interrupted) on Ctrl-C.
void begin_window(const ProgressSink& progress, std::int64_t window, std::int64_t count);

}  // namespace scalebits
