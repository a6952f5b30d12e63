// A Jinja text cut into tokens, white space already removed as Hugging Face's settings ask (trim_blocks, lstrip_blocks
// and the signs '-' and '+' inside the tags), so that a parser sees only what counts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace scalebits::jinja {

enum class TokenType { text, begin_variable, end_variable, begin_block, end_block, name, string, number, sign, end };

struct Token {
  TokenType type = TokenType::end;
  std::string text;  // of strings: without quotes, escapes undone
  int line = 0;

  bool is_sign(std::string_view sign) const { return type == TokenType::sign && text == sign; }
  bool is_name(std::string_view name) const { return type == TokenType::name && text == name; }
};

/// Ends with one token of type `end`. Throws Error(bad_input) naming `where` and the line.
std::vector<Token> tokens_of(std::string_view source, const std::string& where);

}  // namespace scalebits::jinja
