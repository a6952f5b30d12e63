#include "chat/chat_template.h"

#include "core/error.h"
#include "tokenizer/tokenizer.h"

namespace scalebits {
namespace {

std::string_view wanted(std::string_view source, const std::string& where) {
  if (source.empty())
    fail_input(
        "{}: the model has no chat template, so how it was taught to converse is not known; "
        "`generate` continues plain text",
        where);
  return source;
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, const Tokenizer& tokenizer, const std::string& where)
    : template_(wanted(source, where), where + ": chat template"), variables_(Json::object()) {
  variables_["add_generation_prompt"] = true;
  for (const char* name : {"tools", "documents"}) variables_[name] = nullptr;
  if (tokenizer.bos()) variables_["bos_token"] = std::string(tokenizer.piece(*tokenizer.bos()));
  if (tokenizer.eos()) variables_["eos_token"] = std::string(tokenizer.piece(*tokenizer.eos()));
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, const std::optional<std::tm>& now) const {
  Json variables = variables_;
  Json& list = variables["messages"] = Json::array();
  for (const ChatMessage& message : messages) list.push_back({{"role", message.role}, {"content", message.content}});
  return template_.render(variables, now);
}

}  // namespace scalebits
