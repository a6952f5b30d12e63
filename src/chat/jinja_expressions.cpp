// Parses expressions, loosest binding first, as Jinja orders them.
#include "chat/jinja_expressions.h"

#include <charconv>
#include <initializer_list>

namespace scalebits::jinja {
namespace {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenReader& in) : in_(in) {}

  ExpressionPtr parse_expression() {
    TokenReader::Level level(in_);
    ExpressionPtr value = parse_or();
    while (in_.take_name("if")) {
      level.deepen();
      ExpressionPtr condition = parse_or();
      ExpressionPtr otherwise = in_.take_name("else") ? parse_expression() : nullptr;
      value = make_of(Kind::conditional, "", std::move(value), std::move(condition), std::move(otherwise));
    }
    return value;
  }

  ExpressionPtr parse_or() {
    return parse_words("or", [&] { return parse_words("and", [&] { return parse_not(); }); });
  }

 private:
  using Kind = Expression::Kind;

  template <typename Next>
  ExpressionPtr parse_words(const char* word, const Next& next) {
    TokenReader::Level level(in_);
    ExpressionPtr left = next();
    while (in_.take_name(word)) {
      level.deepen();  // a chain is a tree as deep as it is long
      left = binary(word, std::move(left), next());
    }
    return left;
  }

  ExpressionPtr parse_not() {
    const TokenReader::Level level(in_);
    if (!in_.take_name("not")) return parse_comparison();
    return make_of(Kind::unary, "not", parse_not());
  }

  ExpressionPtr parse_comparison() {
    ExpressionPtr left = parse_sum();
    for (const char* sign : {"==", "!=", "<=", ">=", "<", ">"})
      if (in_.take_sign(sign)) return binary(sign, std::move(left), parse_sum());
    if (in_.take_name("in")) return binary("in", std::move(left), parse_sum());
    if (in_.now().is_name("not") && in_.next().is_name("in")) {
      in_.take();
      in_.take();
      return binary("not in", std::move(left), parse_sum());
    }
    return left;
  }

  ExpressionPtr parse_sum() {
    return parse_left({"+", "-"}, [&] {
      return parse_left({"~"}, [&] { return parse_left({"*", "//", "/", "%"}, [&] { return parse_unary(true); }); });
    });
  }

  template <typename Next>
  ExpressionPtr parse_left(std::initializer_list<const char*> signs, const Next& next) {
    TokenReader::Level level(in_);
    ExpressionPtr left = next();
    while (true) {
      const char* found = nullptr;
      for (const char* sign : signs)
        if (found == nullptr && in_.take_sign(sign)) found = sign;
      if (found == nullptr) return left;
      level.deepen();
      left = binary(found, std::move(left), next());
    }
  }

  ExpressionPtr binary(const char* sign, ExpressionPtr left, ExpressionPtr right) {
    return make_of(Kind::binary, sign, std::move(left), std::move(right));
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const TokenReader::Level level(in_);
    ExpressionPtr value;
    if (in_.take_sign("-"))
      value = make_of(Kind::unary, "-", parse_unary(false));
    else if (in_.take_sign("+"))
      value = make_of(Kind::unary, "+", parse_unary(false));
    else
      value = parse_primary();
    value = parse_postfix(std::move(value));
    return with_filters ? parse_filters(std::move(value)) : std::move(value);
  }

  ExpressionPtr parse_primary() {
    if (in_.now().type == TokenType::string) {
      ExpressionPtr made = make(Kind::literal);
      std::string text;
      while (in_.now().type == TokenType::string) text += in_.take().text;
      made->value = text;
      return made;
    }
    if (in_.now().type == TokenType::number) return parse_number();
    if (in_.now().type == TokenType::name) {
      ExpressionPtr made = make(Kind::name, in_.take().text);
      const std::string& name = made->text;
      const bool truth = name == "true" || name == "True", untruth = name == "false" || name == "False";
      if (truth || untruth || name == "none" || name == "None") {
        made->kind = Kind::literal;
        if (truth || untruth) made->value = truth;
      }
      return made;
    }
    if (in_.take_sign("(")) {
      ExpressionPtr inside = parse_expression();
      if (in_.now().is_sign(",")) in_.fail_here("tuples are not known");
      in_.want_sign(")");
      return inside;
    }
    if (in_.take_sign("[")) {
      ExpressionPtr made = make(Kind::list);
      while (!in_.take_sign("]")) {
        made->operands.push_back(parse_expression());
        if (!in_.now().is_sign("]")) in_.want_sign(",");
      }
      return made;
    }
    if (in_.take_sign("{")) {
      ExpressionPtr made = make(Kind::map);
      while (!in_.take_sign("}")) {
        made->operands.push_back(parse_expression());
        in_.want_sign(":");
        made->operands.push_back(parse_expression());
        if (!in_.now().is_sign("}")) in_.want_sign(",");
      }
      return made;
    }
    in_.fail_found("a value");
  }

  ExpressionPtr parse_number() {
    ExpressionPtr made = make(Kind::literal);
    std::string text = in_.take().text;
    if (in_.now().is_sign(".") && in_.next().type == TokenType::number) {
      in_.take();
      text += "." + in_.take().text;
    }
    const char* const end = text.data() + text.size();
    std::int64_t whole = 0;
    double real = 0;
    if (const auto [rest, error] = std::from_chars(text.data(), end, whole); rest == end && error == std::errc())
      made->value = whole;
    else if (const auto [tail, problem] = std::from_chars(text.data(), end, real);
             tail == end && problem == std::errc())
      made->value = real;
    else
      in_.fail_here(fmt::format("'{}' is not a number", text));
    return made;
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    TokenReader::Level level(in_);
    while (true) {
      level.deepen();
      if (in_.take_sign(".")) {
        std::string name = in_.now().type == TokenType::number ? in_.take().text : in_.want_name();
        const bool called = in_.now().is_sign("(");
        value = make_of(called ? Kind::method : Kind::attribute, std::move(name), std::move(value));
        if (called) parse_arguments(*value);
      } else if (in_.take_sign("[")) {
        value = parse_subscript(std::move(value));
      } else if (in_.now().is_sign("(") && value->kind == Kind::name) {
        value->kind = Kind::call;
        parse_arguments(*value);
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr value) {
    ExpressionPtr part[3];
    int colons = 0;
    while (!in_.take_sign("]")) {
      if (colons < 2 && in_.take_sign(":"))
        ++colons;
      else if (part[colons] == nullptr)
        part[colons] = parse_expression();
      else
        in_.fail_found("']'");
    }
    if (colons == 0 && part[0] == nullptr) in_.fail_here("an index is missing");
    if (colons == 0) return make_of(Kind::item, "", std::move(value), std::move(part[0]));
    return make_of(Kind::slice, "", std::move(value), std::move(part[0]), std::move(part[1]), std::move(part[2]));
  }

  void parse_arguments(Expression& call) {
    in_.want_sign("(");
    while (!in_.take_sign(")")) {
      if (in_.now().type == TokenType::name && in_.next().is_sign("=")) {
        std::string name = in_.want_name();
        in_.take();
        call.named.emplace_back(std::move(name), parse_expression());
      } else {
        call.operands.push_back(parse_expression());
      }
      if (!in_.now().is_sign(")")) in_.want_sign(",");
    }
  }

  ExpressionPtr parse_filters(ExpressionPtr value) {
    TokenReader::Level level(in_);
    while (true) {
      level.deepen();
      if (in_.take_sign("|")) {
        value = make_of(Kind::filter, in_.want_name(), std::move(value));
        if (in_.now().is_sign("(")) parse_arguments(*value);
      } else if (in_.take_name("is")) {
        const bool negated = in_.take_name("not");
        value = make_of(Kind::test, in_.want_name(), std::move(value));
        if (in_.now().is_sign("("))
          parse_arguments(*value);
        else if (begins_a_test_argument())
          value->operands.push_back(parse_postfix(parse_primary()));
        if (negated) value = make_of(Kind::unary, "not", std::move(value));
      } else {
        return value;
      }
    }
  }

  bool begins_a_test_argument() const {
    if (in_.now().type == TokenType::name) {
      for (const char* word : {"else", "or", "and", "is", "if", "in", "not"})
        if (in_.now().is_name(word)) return false;
      return true;
    }
    return in_.now().type == TokenType::string || in_.now().type == TokenType::number || in_.now().is_sign("[") ||
           in_.now().is_sign("{");
  }

  ExpressionPtr make(Kind kind, std::string text = "") const {
    auto made = std::make_unique<Expression>();
    made->kind = kind;
    made->line = in_.now().line;
    made->text = std::move(text);
    return made;
  }
  template <typename... Operands>
  ExpressionPtr make_of(Kind kind, std::string text, Operands... operands) const {
    ExpressionPtr made = make(kind, std::move(text));
    (made->operands.push_back(std::move(operands)), ...);
    return made;
  }

  TokenReader& in_;
};

}  // namespace

ExpressionPtr parse_expression(TokenReader& in) { return ExpressionParser(in).parse_expression(); }
ExpressionPtr parse_without_condition(TokenReader& in) { return ExpressionParser(in).parse_or(); }

}  // namespace scalebits::jinja
