#include "chat/jinja_syntax.h"

#include "chat/jinja_tokens.h"
#include "core/error.h"

#include <charconv>
#include <initializer_list>

namespace scalebits::jinja {
namespace {

constexpr int kMaxDepth = 100;  // of nesting: what a person writes, and far from the end of the stack

class Parser {
 public:
  Parser(std::vector<Token> tokens, const std::string& where) : tokens_(std::move(tokens)), where_(where) {}

  std::vector<Statement> parse_all() {
    auto statements = parse_until({});
    return statements;
  }

 private:
  using Kind = Expression::Kind;

  /// One level of nesting, as long as it lives.
  struct Level {
    explicit Level(Parser& parser) : depth(parser.depth_) {
      if (++depth > kMaxDepth) parser.fail_here("the nesting is too deep");
    }
    ~Level() { --depth; }
    int& depth;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  [[noreturn]] void fail_here(const std::string& what) const {
    fail_input("{}, line {}: {}", where_, now().line, what);
  }
  [[noreturn]] void fail_found(std::string_view wanted) const {
    const std::string found = now().type == TokenType::end ? "the end"
                              : now().text.empty()         ? "the end of the tag"
                                                           : "'" + now().text + "'";
    fail_here(fmt::format("wanted {}, found {}", wanted, found));
  }
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
  ExpressionPtr make(Kind kind, std::string text = "") const {
    auto made = std::make_unique<Expression>();
    made->kind = kind;
    made->line = now().line;
    made->text = std::move(text);
    return made;
  }
  template <typename... Operands>
  ExpressionPtr make_of(Kind kind, std::string text, Operands... operands) const {
    ExpressionPtr made = make(kind, std::move(text));
    (made->operands.push_back(std::move(operands)), ...);
    return made;
  }

  // Statements. Those of a body end before the tag that begins with one of `ends`, which is left to the caller.

  std::vector<Statement> parse_until(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    std::vector<Statement> statements;
    while (now().type != TokenType::end) {
      Statement statement;
      statement.line = now().line;
      if (now().type == TokenType::text) {
        statement.names.push_back(take().text);
      } else if (now().type == TokenType::begin_variable) {
        take();
        statement.kind = Statement::Kind::print;
        statement.value = parse_expression();
        want(TokenType::end_variable, "'}}'");
      } else {
        for (const std::string_view end : ends)
          if (tokens_[at_ + 1].is_name(end)) return statements;
        take();
        parse_block(statement);
      }
      statements.push_back(std::move(statement));
    }
    if (ends.size() > 0) fail_found(fmt::format("'{{% {} %}}'", *(ends.end() - 1)));
    return statements;
  }

  void end_tag() { want(TokenType::end_block, "'%}'"); }
  void want_end(std::string_view name) {
    want(TokenType::begin_block, "a tag");
    if (!take_name(name)) fail_found(fmt::format("'{}'", name));
    end_tag();
  }

  void parse_block(Statement& statement) {
    const std::string name = want_name();
    if (name == "if") {
      parse_branch(statement);
    } else if (name == "for") {
      parse_loop(statement);
    } else if (name == "set") {
      parse_set(statement);
    } else if (name == "generation") {
      statement.kind = Statement::Kind::block;  // marks the assistant's words for training; prints its body
      end_tag();
      statement.body = parse_until({"endgeneration"});
      want_end("endgeneration");
    } else if (name == "break" || name == "continue") {
      statement.kind = name == "break" ? Statement::Kind::leave : Statement::Kind::next;
      end_tag();
    } else {
      fail_here(
          fmt::format("the statement '{}' is not known; known are if, for, set, generation, break and continue", name));
    }
  }

  void parse_branch(Statement& statement) {
    statement.kind = Statement::Kind::branch;
    statement.value = parse_expression();
    end_tag();
    statement.body = parse_until({"elif", "else", "endif"});
    const Level level(*this);
    take();  // the beginning of the tag
    if (take_name("elif")) {
      Statement& next = statement.otherwise.emplace_back();
      next.line = now().line;
      return parse_branch(next);  // takes the endif, too
    }
    if (take_name("else")) {
      end_tag();
      statement.otherwise = parse_until({"endif"});
      return want_end("endif");
    }
    take();
    end_tag();
  }

  void parse_loop(Statement& statement) {
    statement.kind = Statement::Kind::loop;
    do statement.names.push_back(want_name());
    while (take_sign(","));
    if (!take_name("in")) fail_found("'in'");
    statement.value = parse_or();
    if (take_name("if")) statement.condition = parse_expression();
    if (now().is_name("recursive")) fail_here("recursive loops are not known");
    end_tag();
    statement.body = parse_until({"else", "endfor"});
    take();
    if (take_name("else")) {
      end_tag();
      statement.otherwise = parse_until({"endfor"});
      return want_end("endfor");
    }
    take();
    end_tag();
  }

  void parse_set(Statement& statement) {
    statement.kind = Statement::Kind::set;
    statement.names.push_back(want_name());
    if (take_sign(".")) statement.names.push_back(want_name());
    if (take_sign("=")) {
      statement.value = parse_expression();
      return end_tag();
    }
    end_tag();
    statement.body = parse_until({"endset"});
    want_end("endset");
  }

  // Expressions, loosest binding first, as Jinja orders them.

  ExpressionPtr parse_expression() {
    const Level level(*this);
    ExpressionPtr value = parse_or();
    while (take_name("if")) {
      ExpressionPtr condition = parse_or();
      ExpressionPtr otherwise = take_name("else") ? parse_expression() : nullptr;
      value = make_of(Kind::conditional, "", std::move(value), std::move(condition), std::move(otherwise));
    }
    return value;
  }

  ExpressionPtr parse_or() {
    ExpressionPtr left = parse_and();
    while (take_name("or")) left = binary("or", std::move(left), parse_and());
    return left;
  }

  ExpressionPtr parse_and() {
    ExpressionPtr left = parse_not();
    while (take_name("and")) left = binary("and", std::move(left), parse_not());
    return left;
  }

  ExpressionPtr parse_not() {
    const Level level(*this);
    if (!take_name("not")) return parse_comparison();
    return make_of(Kind::unary, "not", parse_not());
  }

  ExpressionPtr parse_comparison() {
    ExpressionPtr left = parse_sum();
    for (const char* sign : {"==", "!=", "<=", ">=", "<", ">"})
      if (take_sign(sign)) return binary(sign, std::move(left), parse_sum());
    if (take_name("in")) return binary("in", std::move(left), parse_sum());
    if (now().is_name("not") && tokens_[at_ + 1].is_name("in")) {
      at_ += 2;
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
    ExpressionPtr left = next();
    while (true) {
      const char* found = nullptr;
      for (const char* sign : signs)
        if (found == nullptr && take_sign(sign)) found = sign;
      if (found == nullptr) return left;
      left = binary(found, std::move(left), next());
    }
  }

  ExpressionPtr binary(const char* sign, ExpressionPtr left, ExpressionPtr right) {
    return make_of(Kind::binary, sign, std::move(left), std::move(right));
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const Level level(*this);
    ExpressionPtr value;
    if (take_sign("-"))
      value = make_of(Kind::unary, "-", parse_unary(false));
    else if (take_sign("+"))
      value = make_of(Kind::unary, "+", parse_unary(false));
    else
      value = parse_primary();
    value = parse_postfix(std::move(value));
    return with_filters ? parse_filters(std::move(value)) : std::move(value);
  }

  ExpressionPtr parse_primary() {
    if (now().type == TokenType::string) {
      ExpressionPtr made = make(Kind::literal);
      std::string text;
      while (now().type == TokenType::string) text += take().text;
      made->value = text;
      return made;
    }
    if (now().type == TokenType::number) return parse_number();
    if (now().type == TokenType::name) {
      ExpressionPtr made = make(Kind::name, take().text);
      const std::string& name = made->text;
      const bool truth = name == "true" || name == "True", untruth = name == "false" || name == "False";
      if (truth || untruth || name == "none" || name == "None") {
        made->kind = Kind::literal;
        if (truth || untruth) made->value = truth;
      }
      return made;
    }
    if (take_sign("(")) {
      ExpressionPtr inside = parse_expression();
      if (now().is_sign(",")) fail_here("tuples are not known");
      want_sign(")");
      return inside;
    }
    if (take_sign("[")) {
      ExpressionPtr made = make(Kind::list);
      while (!take_sign("]")) {
        made->operands.push_back(parse_expression());
        if (!now().is_sign("]")) want_sign(",");
      }
      return made;
    }
    if (take_sign("{")) {
      ExpressionPtr made = make(Kind::map);
      while (!take_sign("}")) {
        made->operands.push_back(parse_expression());
        want_sign(":");
        made->operands.push_back(parse_expression());
        if (!now().is_sign("}")) want_sign(",");
      }
      return made;
    }
    fail_found("a value");
  }

  ExpressionPtr parse_number() {
    ExpressionPtr made = make(Kind::literal);
    std::string text = take().text;
    if (now().is_sign(".") && tokens_[at_ + 1].type == TokenType::number) {
      take();
      text += "." + take().text;
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
      fail_here(fmt::format("'{}' is not a number", text));
    return made;
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    const int depth = depth_;
    while (true) {
      // A chain is a tree as deep as it is long.
      if (++depth_ > kMaxDepth) fail_here("the nesting is too deep");
      if (take_sign(".")) {
        std::string name = now().type == TokenType::number ? take().text : want_name();
        const bool called = now().is_sign("(");
        value = make_of(called ? Kind::method : Kind::attribute, std::move(name), std::move(value));
        if (called) parse_arguments(*value);
      } else if (take_sign("[")) {
        value = parse_subscript(std::move(value));
      } else if (now().is_sign("(") && value->kind == Kind::name) {
        value->kind = Kind::call;
        parse_arguments(*value);
      } else {
        depth_ = depth;
        return value;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr value) {
    ExpressionPtr part[3];
    int colons = 0;
    while (!take_sign("]")) {
      if (colons < 2 && take_sign(":"))
        ++colons;
      else if (part[colons] == nullptr)
        part[colons] = parse_expression();
      else
        fail_found("']'");
    }
    if (colons == 0 && part[0] == nullptr) fail_here("an index is missing");
    if (colons == 0) return make_of(Kind::item, "", std::move(value), std::move(part[0]));
    return make_of(Kind::slice, "", std::move(value), std::move(part[0]), std::move(part[1]), std::move(part[2]));
  }

  void parse_arguments(Expression& call) {
    want_sign("(");
    while (!take_sign(")")) {
      if (now().type == TokenType::name && tokens_[at_ + 1].is_sign("=")) {
        std::string name = want_name();
        take();
        call.named.emplace_back(std::move(name), parse_expression());
      } else {
        call.operands.push_back(parse_expression());
      }
      if (!now().is_sign(")")) want_sign(",");
    }
  }

  ExpressionPtr parse_filters(ExpressionPtr value) {
    const int depth = depth_;
    while (true) {
      if (++depth_ > kMaxDepth) fail_here("the nesting is too deep");
      if (take_sign("|")) {
        value = make_of(Kind::filter, want_name(), std::move(value));
        if (now().is_sign("(")) parse_arguments(*value);
      } else if (take_name("is")) {
        const bool negated = take_name("not");
        value = make_of(Kind::test, want_name(), std::move(value));
        if (now().is_sign("("))
          parse_arguments(*value);
        else if (begins_a_test_argument())
          value->operands.push_back(parse_postfix(parse_primary()));
        if (negated) value = make_of(Kind::unary, "not", std::move(value));
      } else {
        depth_ = depth;
        return value;
      }
    }
  }

  bool begins_a_test_argument() const {
    if (now().type == TokenType::name) {
      for (const char* word : {"else", "or", "and", "is", "if", "in", "not"})
        if (now().is_name(word)) return false;
      return true;
    }
    return now().type == TokenType::string || now().type == TokenType::number || now().is_sign("[") ||
           now().is_sign("{");
  }

  std::vector<Token> tokens_;
  const std::string& where_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

std::vector<Statement> parse(std::string_view source, const std::string& where) {
  return Parser(tokens_of(source, where), where).parse_all();
}

}  // namespace scalebits::jinja
