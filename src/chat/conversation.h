// A conversation as the tokens a model must have read before it answers. Subtle rule: what the model has said stays in
// the tokens in which it said it, even where encoding its text gives others, so that a session that has read them reads
// only what is new.
#pragma once

#include "chat/chat_template.h"
#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

class Conversation {
 public:
  /// `system`: what the system says first; empty: nothing, or what the template has for that case. `now`: as in
  /// ChatTemplate::render, the same in all turns.
  Conversation(ChatTemplate chat_template, Tokenizer tokenizer, std::string system = "",
               const std::optional<std::tm>& now = {});

  /// The user's next words → the whole prompt. Throws Error(bad_input), the conversation as it was, when the template
  /// refuses them.
  std::vector<std::int32_t> ask(std::string text);
  /// The tokens that the model said after the last prompt, without the one that ends its turn.
  void answer(std::span<const std::int32_t> tokens);
  /// Takes back the last question, which has no answer: the conversation as it was before.
  void forget_question();
  /// Forgets all but the system's words.
  void reset();

  const std::vector<ChatMessage>& messages() const { return messages_; }
  /// The special token that the template writes behind an answer, by which the model ends its turn; nullopt when there
  /// is none.
  std::optional<std::int32_t> turn_end() const;

 private:
  ChatTemplate template_;
  Tokenizer tokenizer_;
  std::optional<std::tm> now_;
  std::string system_;
  std::vector<ChatMessage> messages_;
  std::vector<std::int32_t> said_;    // the last prompt, and the answer
  std::vector<std::int32_t> before_;  // said_ before the last question
};

/// `encoded` with the tokens of its beginning replaced by `said` when both spell the same bytes there; else `encoded`.
std::vector<std::int32_t> keep_said(const Tokenizer& tokenizer, std::span<const std::int32_t> said,
                                    std::span<const std::int32_t> encoded);

}  // namespace scalebits
