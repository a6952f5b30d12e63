// What parsers of Jinja read tokens with: the one to come, what must come, how deep the nesting is, errors with their
// line.
#pragma once

#include "chat/jinja_tokens.h"
#include "core/error.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace scalebits::jinja {

class TokenReader {
 public:
  TokenReader(std::vector<Token> tokens, const std::string& where) : tokens_(std::move(tokens)), where_(where) {}

  const Token& now() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  /// The last token, `end`, stays.
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool take_sign(std::string_view sign) { return now().is_sign(sign) && (take(), true); }
  bool take_name(std::string_view name) { return now().is_name(name) && (take(), true); }
  void want_sign(std::string_view sign) {
    if (!take_sign(sign)) fail_found(fmt::format("'{}'", sign));
  }
  std::string want_name() {
    if (now().type != TokenType::name) fail_found("a name");
    return take().text;
  }
  void want(TokenType type, std::string_view what) {
    if (now().type != type) fail_found(what);
    take();
  }

  [[noreturn]] void fail_here(const std::string& what) const {
    fail_input("{}, line {}: {}", where_, now().line, what);
  }
  [[noreturn]] void fail_found(std::string_view wanted) const {
    const std::string found = now().type == TokenType::end ? "the end"
                              : now().text.empty()         ? "the end of the tag"
                                                           : "'" + now().text + "'";
    fail_here(fmt::format("wanted {}, found {}", wanted, found));
  }

  /// A level of nesting, or several, as long as it lives.
  class Level {
   public:
    explicit Level(TokenReader& reader) : reader_(reader) { deepen(); }
    ~Level() { reader_.depth_ -= levels_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    void deepen() {
      constexpr int kMaxDepth = 400;  // beyond what a person writes, and far from the end of the stack
      if (++levels_, ++reader_.depth_ > kMaxDepth) reader_.fail_here("the nesting is too deep");
    }

   private:
    TokenReader& reader_;
    int levels_ = 0;
  };

 private:
  std::vector<Token> tokens_;
  const std::string& where_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace scalebits::jinja
