// Expressions of Jinja: what stands between {{ and }}, and behind if, for and set.
#pragma once

#include "chat/jinja_syntax.h"
#include "chat/jinja_token_reader.h"

namespace scalebits::jinja {

/// Up to what cannot belong to it any more. Throws Error(bad_input) with its line.
ExpressionPtr parse_expression(TokenReader& in);
/// The same, but "a if b" ends before the if, which belongs to the loop.
ExpressionPtr parse_without_condition(TokenReader& in);

}  // namespace scalebits::jinja
