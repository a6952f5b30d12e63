// Text as a model writes it: reads a prompt, draws token after token and hands out the text piece by piece. Subtle
// rule: what the session has read already is not read again, so a prompt that begins like the last one costs only its
// new part.
#pragma once

#include "runtime/session.h"
#include "sampling/sampler.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

struct WritingOptions {
  SamplingOptions sampling;
  std::vector<std::int32_t> stop_ids;  // tokens that end the text
  std::vector<std::string> stops;      // texts that end it
  bool text_start = false;  // the text does not go on from the prompt's: SentencePiece's first space is dropped
};

enum class WritingEnd { stop_token, stop_string, token_limit, out_of_positions, interrupted };

struct Written {
  std::vector<std::int32_t> tokens;  // in order, without a stop token
  std::size_t shown_tokens = 0;      // of them, those whose text came out: a stop string does not
  WritingEnd end = WritingEnd::token_limit;
  std::int64_t kept_tokens = 0;  // of the prompt, read before
  std::int64_t read_tokens = 0;  // of the prompt, read now
  double read_seconds = 0;       // until the first logits
  double write_seconds = 0;      // from then on
  Profile reading, writing;      // empty unless the model collects it
};

/// Pieces are whole UTF-8 characters.
using TextSink = std::function<void(std::string_view text)>;

class TextWriter {
 public:
  /// Keeps references to the session and the tokenizer. Random numbers are a pure function of the seed and the number
  /// of tokens drawn by this writer. Throws Error(usage) for options out of range.
  TextWriter(Session& session, const Tokenizer& tokenizer, WritingOptions options);

  /// Writes up to `max_tokens`, at least one, after `prompt`, which replaces what the session held. Ctrl-C ends the
  /// text between two tokens. Errors as Session::evaluate, with nothing written.
  Written write(std::span<const std::int32_t> prompt, std::int64_t max_tokens, const TextSink& sink);

 private:
  Session& session_;
  const Tokenizer& tokenizer_;
  WritingOptions options_;
  Sampler sampler_;
  std::uint64_t draws_ = 0;
};

}  // namespace scalebits
