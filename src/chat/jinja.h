// Jinja as chat templates use it, run as Hugging Face runs it: the model's own text decides how a conversation is
// written down, so no table of formats can be out of date or nearly right. Only the part of the language that plain
// conversations need; the rest is refused by name when the template is read, never guessed.
#pragma once

#include "chat/jinja_syntax.h"
#include "core/json.h"

#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits::jinja {

class Template {
 public:
  /// Throws Error(bad_input) naming `where`, the line and what is not known.
  Template(std::string_view source, std::string where);

  /// `variables`: a JSON object. `now`: what strftime_now() tells; without it that function is undefined. Throws
  /// Error(bad_input) when the template raises one, or meets values it has no rule for. Ends for every template.
  std::string render(const Json& variables, const std::optional<std::tm>& now = {}) const;

 private:
  std::string where_;
  std::vector<Statement> statements_;
};

}  // namespace scalebits::jinja
