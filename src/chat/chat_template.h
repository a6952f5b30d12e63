// How a model wants a conversation written down: its own Jinja template, as `transformers` renders it for plain text
// (no tools, no documents).
#pragma once

#include "chat/jinja.h"

#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace scalebits {

class Tokenizer;

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

class ChatTemplate {
 public:
  /// `source`: the artifact's or checkpoint's chat_template; `where` names the model in errors. The tokenizer gives
  /// bos_token and eos_token. Throws Error(bad_input) when the model has no template, or one that needs more of Jinja
  /// than is known here: then the message names it.
  ChatTemplate(std::string_view source, const Tokenizer& tokenizer, const std::string& where);

  /// The prompt after which the model says the assistant's next words; special tokens in it are meant as such, and it
  /// holds its own beginning-of-text token if it wants one. `now`: for templates that tell the date. Throws
  /// Error(bad_input) when the template refuses the conversation.
  std::string render(std::span<const ChatMessage> messages, const std::optional<std::tm>& now = {}) const;

 private:
  jinja::Template template_;
  Json variables_;
};

}  // namespace scalebits
