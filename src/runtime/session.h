// One sequence on its way through a model: the tokens read so far and their keys and values. Reading tokens appends
// them and gives the logits of what comes next; keep() forgets the end, so that a prompt that begins like the last one
// is not read again. Results are the same bits however tokens are cut into calls, chunks and batches, and for any
// number of threads.
#pragma once

#include "kernels/attention.h"
#include "runtime/kv_cache.h"
#include "runtime/model.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace scalebits {

class Session;

/// What one session reads in a step that several take together.
struct SessionStep {
  Session* session = nullptr;
  std::span<const std::int32_t> tokens;  // at least one
};

/// Reads each step's tokens in its session, all sessions being different ones of one model, the weights read once for
/// all of them; returns the logits [steps, vocab] after the last token of each, valid until the model's next call.
/// Errors as Session::evaluate.
std::span<const float> evaluate(std::span<const SessionStep> steps);

/// The likeliest token after the last of each step instead of logits: the lowest number among equals.
std::vector<std::int32_t> likeliest(std::span<const SessionStep> steps);

/// Logits [rows, vocab] of tokens number first … first + rows - 1 of those given; valid during the call.
using LogitsSink = std::function<void(std::int64_t first, std::int64_t rows, const float* logits)>;
/// The same with the logits after every token, the steps' tokens counted end to end, some at a time in order. `sink`
/// must not use the model.
void evaluate_all(std::span<const SessionStep> steps, const LogitsSink& sink);

struct SessionOptions {
  KvType kv = KvType::f16;
  std::int64_t max_positions = 0;  // tokens it may hold; 0: what the model was made for. More is the caller's risk,
                                   // and an error where positions are learned
};

class Session {
 public:
  /// Keeps a reference to the model, which must outlive it. Throws Error(usage) for an option out of its range.
  explicit Session(RuntimeModel& model, const SessionOptions& options = {});

  RuntimeModel& model() const { return *model_; }
  /// All tokens read, in order; as many as the cache holds.
  std::span<const std::int32_t> tokens() const { return tokens_; }
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t max_positions() const { return max_positions_; }
  /// Of the keys and values of tokens().
  std::uint64_t cache_bytes() const { return tokens_.size() * cache_.bytes_per_position(); }

  /// Reads `tokens`, at least one, and returns the logits [vocab] after the last; they are valid until the model's next
  /// call. Throws Error(bad_input), with nothing read, when a token is outside the vocabulary or there are more than
  /// max_positions(); Error(interrupted) between chunks of a prompt on Ctrl-C, and Error(bad_input) when logits, or
  /// what attention is given, are not finite: then tokens() tells what was read.
  std::span<const float> evaluate(std::span<const std::int32_t> tokens);
  /// The same, with the likeliest token instead of logits; from a card, a number comes instead of a row of them.
  std::int32_t likeliest(std::span<const std::int32_t> tokens);
  /// The same, with the logits after every token, some at a time in order. `sink` must not use the model.
  void evaluate_all(std::span<const std::int32_t> tokens, const LogitsSink& sink);

  /// Forgets all but the first `count` tokens. Throws InternalError unless 0 <= count <= length().
  void keep(std::int64_t count);
  /// Forgets all but the beginning that is shared with `prompt`, but never all of the prompt, so that there is a token
  /// left to give logits. Returns how many are kept: evaluate(prompt.subspan(that)) comes next.
  std::int64_t keep_shared_prefix(std::span<const std::int32_t> prompt);

 private:
  friend std::span<const float> evaluate(std::span<const SessionStep> steps);
  friend std::vector<std::int32_t> likeliest(std::span<const SessionStep> steps);
  friend void evaluate_all(std::span<const SessionStep> steps, const LogitsSink& sink);
  template <typename OnPass>
  static void read(std::span<const SessionStep> steps, const OnPass& on_pass);
  template <typename OnLast>
  static void read_to_last(std::span<const SessionStep> steps, const OnLast& on_last);
  void require_readable(std::span<const std::int32_t> tokens) const;

  RuntimeModel* model_;
  std::int64_t max_positions_;
  KvCache cache_;
  std::vector<std::int32_t> tokens_;
};

}  // namespace scalebits
