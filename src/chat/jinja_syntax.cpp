#include "chat/jinja_syntax.h"

#include "chat/jinja_expressions.h"
#include "chat/jinja_token_reader.h"

#include <initializer_list>

namespace scalebits::jinja {
namespace {

class StatementParser {
 public:
  explicit StatementParser(TokenReader& in) : in_(in) {}

  /// Ends at the end, or before the tag that begins with one of `ends`, which is left to the caller.
  std::vector<Statement> parse_until(std::initializer_list<std::string_view> ends) {
    const TokenReader::Level level(in_);
    std::vector<Statement> statements;
    while (in_.now().type != TokenType::end) {
      Statement statement;
      statement.line = in_.now().line;
      if (in_.now().type == TokenType::text) {
        statement.names.push_back(in_.take().text);
      } else if (in_.now().type == TokenType::begin_variable) {
        in_.take();
        statement.kind = Statement::Kind::print;
        statement.value = parse_expression(in_);
        in_.want(TokenType::end_variable, "'}}'");
      } else {
        for (const std::string_view end : ends)
          if (in_.next().is_name(end)) return statements;
        in_.take();
        parse_block(statement);
      }
      statements.push_back(std::move(statement));
    }
    if (ends.size() > 0) in_.fail_found(fmt::format("'{{% {} %}}'", *(ends.end() - 1)));
    return statements;
  }

 private:
  void end_tag() { in_.want(TokenType::end_block, "'%}'"); }
  void want_end(std::string_view name) {
    in_.want(TokenType::begin_block, "a tag");
    if (!in_.take_name(name)) in_.fail_found(fmt::format("'{}'", name));
    end_tag();
  }

  void parse_block(Statement& statement) {
    const std::string name = in_.want_name();
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
      in_.fail_here(
          fmt::format("the statement '{}' is not known; known are if, for, set, generation, break and continue", name));
    }
  }

  void parse_branch(Statement& statement) {
    statement.kind = Statement::Kind::branch;
    statement.value = parse_expression(in_);
    end_tag();
    statement.body = parse_until({"elif", "else", "endif"});
    const TokenReader::Level level(in_);
    in_.take();  // the beginning of the tag
    if (in_.take_name("elif")) {
      Statement& next = statement.otherwise.emplace_back();
      next.line = in_.now().line;
      return parse_branch(next);  // takes the endif, too
    }
    if (in_.take_name("else")) {
      end_tag();
      statement.otherwise = parse_until({"endif"});
      return want_end("endif");
    }
    in_.take();
    end_tag();
  }

  void parse_loop(Statement& statement) {
    statement.kind = Statement::Kind::loop;
    do statement.names.push_back(in_.want_name());
    while (in_.take_sign(","));
    if (!in_.take_name("in")) in_.fail_found("'in'");
    statement.value = parse_without_condition(in_);
    if (in_.take_name("if")) statement.condition = parse_expression(in_);
    if (in_.now().is_name("recursive")) in_.fail_here("recursive loops are not known");
    end_tag();
    statement.body = parse_until({"else", "endfor"});
    in_.take();
    if (in_.take_name("else")) {
      end_tag();
      statement.otherwise = parse_until({"endfor"});
      return want_end("endfor");
    }
    in_.take();
    end_tag();
  }

  void parse_set(Statement& statement) {
    statement.kind = Statement::Kind::set;
    statement.names.push_back(in_.want_name());
    if (in_.take_sign(".")) statement.names.push_back(in_.want_name());
    if (in_.take_sign("=")) {
      statement.value = parse_expression(in_);
      return end_tag();
    }
    end_tag();
    statement.body = parse_until({"endset"});
    want_end("endset");
  }

  TokenReader& in_;
};

}  // namespace

std::vector<Statement> parse(std::string_view source, const std::string& where) {
  TokenReader reader(tokens_of(source, where), where);
  return StatementParser(reader).parse_until({});
}

}  // namespace scalebits::jinja
