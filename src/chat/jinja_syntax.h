// The tree of a Jinja template, and the parser that makes it: the part of the language that chat templates of plain
// text need. Whatever is not in it is an Error when the template is read, named with its line.
#pragma once

#include "core/json.h"

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace scalebits::jinja {

struct Expression {
  enum class Kind {
    literal,
    name,         // text
    list,         // operands
    map,          // operands: key, value, key, value …
    attribute,    // operands[0].text
    item,         // operands[0][operands[1]]
    slice,        // operands[0][operands[1]:operands[2]:operands[3]], null where left out
    call,         // text(operands…, named…)
    method,       // operands[0].text(operands[1]…, named…)
    filter,       // operands[0] | text(operands[1]…, named…)
    test,         // operands[0] is text(operands[1]…)
    unary,        // text: "not", "-" or "+"
    binary,       // text: an arithmetic sign, a comparison, "in", "not in", "and" or "or"
    conditional,  // operands[0] if operands[1] else operands[2], which may be null
  };
  Kind kind = Kind::literal;
  int line = 0;
  std::string text;
  Json value;  // of a literal
  std::vector<std::unique_ptr<Expression>> operands;
  std::vector<std::pair<std::string, std::unique_ptr<Expression>>> named;
};
using ExpressionPtr = std::unique_ptr<Expression>;

struct Statement {
  enum class Kind {
    text,    // names[0]
    print,   // value
    branch,  // if value: body, else: otherwise
    loop,    // for names… in value [if condition]: body, else: otherwise
    set,     // names[0] = value, or names[0].names[1] = value; without value: what body prints
    block,   // body
    leave,   // break
    next,    // continue
  };
  Kind kind = Kind::text;
  int line = 0;
  std::vector<std::string> names;
  ExpressionPtr value, condition;
  std::vector<Statement> body, otherwise;
};

/// Throws Error(bad_input) naming `where`, the line and what is not known.
std::vector<Statement> parse(std::string_view source, const std::string& where);

}  // namespace scalebits::jinja
