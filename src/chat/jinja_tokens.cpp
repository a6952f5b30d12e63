#include "chat/jinja_tokens.h"

#include "core/error.h"

#include <algorithm>
#include <array>

namespace scalebits::jinja {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";
// Longer ones first.
constexpr std::array<std::string_view, 23> kSigns = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*", "/", "%", "~",
                                                     "<",  ">",  "=",  "(",  ")",  "[",  "]", "{", "}", ",", ":"};
constexpr std::string_view kLastSigns = ".|";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, unsigned code) {
  const auto push = [&](unsigned byte) { out += static_cast<char>(byte); };
  if (code < 0x80) return push(code);
  if (code < 0x800) {
    push(0xc0 | code >> 6);
  } else {
    push(0xe0 | code >> 12);
    push(0x80 | (code >> 6 & 0x3f));
  }
  push(0x80 | (code & 0x3f));
}

class Cutter {
 public:
  Cutter(std::string_view source, const std::string& where) : where_(where) {
    // As Jinja reads it: one kind of line end, and none at the very end.
    for (std::size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        source_ += '\n';
        i += i + 1 < source.size() && source[i + 1] == '\n';
      } else {
        source_ += source[i];
      }
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  std::vector<Token> cut() {
    while (at_ < source_.size()) {
      const std::size_t tag = next_tag();
      take_text(tag);
      if (at_ >= source_.size()) break;
      const char kind = source_[at_ + 1];
      at_ += 2;
      if (kind == '#') {
        skip_comment();
      } else {
        const bool block = kind == '%';
        if (at_ < source_.size() && (source_[at_] == '-' || (block && source_[at_] == '+'))) ++at_;
        push(block ? TokenType::begin_block : TokenType::begin_variable, "");
        take_expression(block);
      }
    }
    push(TokenType::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(const std::string& what) const { fail_input("{}, line {}: {}", where_, line(at_), what); }

  /// Asked for in rising order.
  int line(std::size_t at) const {
    while (counted_ < std::min(at, source_.size())) line_ += source_[counted_++] == '\n';
    return line_;
  }

  void push(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line(at_)}); }

  std::size_t next_tag() const {
    for (std::size_t at = at_; at + 1 < source_.size(); ++at)
      if (source_[at] == '{' && (source_[at + 1] == '{' || source_[at + 1] == '%' || source_[at + 1] == '#')) return at;
    return source_.size();
  }

  void take_text(std::size_t tag) {
    std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    if (tag < source_.size()) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
      if (sign == '-') {
        const std::size_t last = text.find_last_not_of(kSpace);
        text = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
      } else if (source_[tag + 1] != '{' && sign != '+') {
        // lstrip_blocks: the indentation of a block that stands first on its line.
        const std::size_t begin = text.rfind('\n') + 1;  // npos + 1 is 0
        const bool at_line_start = begin > 0 || at_ == 0 || source_[at_ - 1] == '\n';
        if (at_line_start && text.find_first_not_of(kSpace, begin) == std::string_view::npos)
          text = text.substr(0, begin);
      }
    }
    if (!text.empty()) push(TokenType::text, std::string(text));
    at_ = tag;
  }

  /// Behind a tag: '-' took all white space, trim_blocks one line end, '+' nothing.
  void skip_after(char sign, bool trims) {
    if (sign == '-')
      at_ = std::min(source_.find_first_not_of(kSpace, at_), source_.size());
    else if (sign != '+' && trims && at_ < source_.size() && source_[at_] == '\n')
      ++at_;
  }

  void skip_comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_here("a comment has no end");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    at_ = end + 2;
    skip_after(sign, true);
  }

  void take_expression(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    int open = 0;  // brackets: the "}}" of a nested map ends no tag
    while (true) {
      at_ = std::min(source_.find_first_not_of(kSpace, at_), source_.size());
      if (at_ >= source_.size()) fail_here("a tag has no end");
      const std::string_view rest = std::string_view(source_).substr(at_);
      const bool signed_close = (rest[0] == '-' || (block && rest[0] == '+')) && rest.substr(1).starts_with(close);
      if (open == 0 && (signed_close || rest.starts_with(close))) {
        const char sign = signed_close ? rest[0] : ' ';
        push(block ? TokenType::end_block : TokenType::end_variable, "");
        at_ += close.size() + signed_close;
        return skip_after(sign, block);
      }
      if (rest[0] == '\'' || rest[0] == '"') {
        take_string();
      } else if (is_letter(rest[0]) || is_digit(rest[0])) {
        const bool number = is_digit(rest[0]);
        std::size_t length = 1;
        while (length < rest.size() && (is_letter(rest[length]) || is_digit(rest[length]))) ++length;
        push(number ? TokenType::number : TokenType::name, std::string(rest.substr(0, length)));
        at_ += length;
      } else {
        const std::string sign = sign_at(rest);
        if (sign == "(" || sign == "[" || sign == "{") ++open;
        if (sign == ")" || sign == "]" || sign == "}") --open;
        push(TokenType::sign, sign);
        at_ += sign.size();
      }
    }
  }

  std::string sign_at(std::string_view rest) const {
    for (const std::string_view sign : kSigns)
      if (rest.starts_with(sign)) return std::string(sign);
    if (kLastSigns.find(rest[0]) == std::string_view::npos) fail_here(fmt::format("'{}' is not known here", rest[0]));
    return std::string(1, rest[0]);
  }

  void take_string() {
    const char quote = source_[at_++];
    std::string text;
    for (; at_ < source_.size() && source_[at_] != quote; ++at_) {
      if (source_[at_] != '\\') {
        text += source_[at_];
        continue;
      }
      if (++at_ >= source_.size()) break;
      constexpr std::string_view kNames = "ntrbf\\'\"", kMeant = "\n\t\r\b\f\\'\"";
      const char c = source_[at_];
      if (const std::size_t found = kNames.find(c); found != std::string_view::npos)
        text += kMeant[found];
      else if (c == '\n')
        continue;  // a line that goes on
      else if (c == 'u' || c == 'x')
        append_utf8(text, hexadecimal(c == 'u' ? 4 : 2));
      else
        fail_here(fmt::format("the escape '\\{}' is not known", c));
    }
    if (at_ >= source_.size()) fail_here("a string has no end");
    push(TokenType::string, text);
    ++at_;
  }

  unsigned hexadecimal(std::size_t digits) {
    unsigned value = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      constexpr std::string_view kDigits = "0123456789abcdefABCDEF";
      ++at_;
      const std::size_t digit = at_ < source_.size() ? kDigits.find(source_[at_]) : std::string_view::npos;
      if (digit == std::string_view::npos) fail_here("an escape must be of hexadecimal digits");
      value = value * 16 + static_cast<unsigned>(digit < 16 ? digit : digit - 6);
    }
    return value;
  }

  const std::string& where_;
  std::string source_;
  std::size_t at_ = 0;
  std::vector<Token> tokens_;
  mutable std::size_t counted_ = 0;
  mutable int line_ = 1;
};

}  // namespace

std::vector<Token> tokens_of(std::string_view source, const std::string& where) { return Cutter(source, where).cut(); }

}  // namespace scalebits::jinja
