#include "chat/conversation.h"

#include "core/error.h"

#include <utility>

namespace scalebits {
namespace {

/// Empty for ids outside the vocabulary (rows that pad an embedding), as in Tokenizer::decode.
std::string_view piece(const Tokenizer& tokenizer, std::int32_t id) {
  return id >= 0 && id < tokenizer.vocab_size() ? tokenizer.piece(id) : std::string_view();
}

}  // namespace

std::vector<std::int32_t> keep_said(const Tokenizer& tokenizer, std::span<const std::int32_t> said,
                                    std::span<const std::int32_t> encoded) {
  std::string bytes;
  for (const std::int32_t id : said) bytes += piece(tokenizer, id);
  std::size_t spelled = 0, count = 0;
  while (spelled < bytes.size() && count < encoded.size()) {
    const std::string_view next = piece(tokenizer, encoded[count++]);
    if (!std::string_view(bytes).substr(spelled).starts_with(next)) return {encoded.begin(), encoded.end()};
    spelled += next.size();
  }
  if (spelled < bytes.size()) return {encoded.begin(), encoded.end()};
  std::vector<std::int32_t> kept(said.begin(), said.end());
  kept.insert(kept.end(), encoded.begin() + static_cast<std::ptrdiff_t>(count), encoded.end());
  return kept;
}

Conversation::Conversation(ChatTemplate chat_template, Tokenizer tokenizer, std::string system,
                           const std::optional<std::tm>& now)
    : template_(std::move(chat_template)), tokenizer_(std::move(tokenizer)), now_(now), system_(std::move(system)) {
  reset();
}

std::vector<std::int32_t> Conversation::ask(std::string text) {
  messages_.push_back({"user", std::move(text)});
  try {
    // The template writes all special tokens itself, the beginning of the text included.
    const auto encoded = tokenizer_.encode(template_.render(messages_, now_), {.add_bos = false});
    if (encoded.empty()) fail_input("the chat template gives an empty prompt");
    before_ = std::exchange(said_, keep_said(tokenizer_, said_, encoded));
  } catch (...) {
    messages_.pop_back();
    throw;
  }
  return said_;
}

void Conversation::answer(std::span<const std::int32_t> tokens) {
  SCALEBITS_ASSERT(!messages_.empty() && messages_.back().role == "user");
  messages_.push_back({"assistant", tokenizer_.decode(tokens, {.text_start = false})});
  said_.insert(said_.end(), tokens.begin(), tokens.end());
}

void Conversation::forget_question() {
  SCALEBITS_ASSERT(!messages_.empty() && messages_.back().role == "user");
  messages_.pop_back();
  said_ = before_;
}

std::optional<std::int32_t> Conversation::turn_end() const {
  const std::string mark = "@answer@";
  const std::string text =
      template_.render(std::vector<ChatMessage>{{"user", "a"}, {"assistant", mark}, {"user", "b"}}, now_);
  const std::size_t answer = text.find(mark);
  if (answer == std::string::npos) return std::nullopt;
  for (const std::int32_t id : tokenizer_.encode(text.substr(answer + mark.size())))
    if (tokenizer_.is_special(id)) return id;
  return std::nullopt;
}

void Conversation::reset() {
  said_.clear();
  messages_.clear();
  if (!system_.empty()) messages_.push_back({"system", system_});
}

}  // namespace scalebits
