// How likely a model holds each of several continuations of a context. A context that choices share is read once, and
// its keys and values serve them all; several questions are read together; logits are computed only where a token is
// judged.
#pragma once

#include "core/progress.h"
#include "runtime/session.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

class Tokenizer;

/// A context and one choice behind it. The last `scored` tokens, at least one and never the first, are the choice's.
struct EncodedChoice {
  std::vector<std::int32_t> ids;
  std::int64_t scored = 0;
};

struct EncodeChoiceOptions {
  bool bos = false;                // put the tokenizer's BOS first
  std::int64_t max_positions = 0;  // the model's
};

/// Encodes `context` + " " + `choice` as EleutherAI's lm-evaluation-harness does: white space at the end of the context
/// belongs to the choice; the choice's tokens are those that the text encoded as a whole has more than the context
/// alone; of a text too long the left end is cut off, so that all but its last token fit the model's positions. Throws
/// Error(bad_input) naming `where` when nothing is left to score or to score it by.
EncodedChoice encode_choice(const Tokenizer& tokenizer, std::string_view context, std::string_view choice,
                            const EncodeChoiceOptions& options, const std::string& where);

/// For each question the log-likelihoods, in nats, of its choices: sums over their scored tokens. The same bits as when
/// each sequence is read alone. Throws Error as Session::evaluate does.
std::vector<std::vector<double>> log_likelihoods(RuntimeModel& model,
                                                 std::span<const std::vector<EncodedChoice>> questions, KvType kv,
                                                 const ProgressSink& progress = {});

/// Tokens that log_likelihoods will read, what its time is measured by.
std::int64_t tokens_to_read(std::span<const std::vector<EncodedChoice>> questions);

}  // namespace scalebits
