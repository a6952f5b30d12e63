#include "chat/jinja.h"

#include "chat/jinja_values.h"
#include "core/error.h"

#include <algorithm>
#include <array>
#include <utility>

namespace scalebits::jinja {
namespace {

constexpr std::size_t kMaxSteps = 300'000;  // statements and turns of loops; a conversation takes thousands
constexpr std::int64_t kMaxRange = 100'000;

bool is_function(std::string_view name) {
  constexpr std::array<std::string_view, 5> kFunctions = {"raise_exception", "namespace", "dict", "range",
                                                          "strftime_now"};
  return std::find(kFunctions.begin(), kFunctions.end(), name) != kFunctions.end();
}
std::string known_functions() { return "raise_exception, namespace, dict, range, strftime_now"; }

using Scope = std::vector<std::pair<std::string, Json>>;

class Renderer {
 public:
  Renderer(const std::string& where, const Json& variables, const std::optional<std::tm>& now)
      : where_(where), now_(now), scopes_(1) {
    for (const auto& [name, value] : variables.items()) scopes_[0].emplace_back(name, value);
  }

  std::string render(const std::vector<Statement>& statements) {
    run_all(statements);
    return std::move(out_);
  }

 private:
  enum class Flow { on, leave, next };
  using Kind = Expression::Kind;

  void print(const std::string& text) {
    budget_.charge(text.size());
    if (out_.size() + text.size() > kMaxSize) fail_input("the text grows beyond {} bytes", kMaxSize);
    out_ += text;
  }

  Flow run_all(const std::vector<Statement>& statements) {
    for (const Statement& statement : statements) {
      count_step();
      if (const Flow flow = run_named(statement); flow != Flow::on) return flow;
    }
    return Flow::on;
  }

  void count_step() {
    if (++steps_ > kMaxSteps) fail_input("{}: more than {} steps", where_, kMaxSteps);
  }

  /// Adds the place to an error, once.
  Flow run_named(const Statement& statement) {
    try {
      return run(statement);
    } catch (const Error& error) {
      if (std::string_view(error.what()).starts_with(where_)) throw;
      fail(error.kind(), "{}, line {}: {}", where_, statement.line, error.what());
    }
  }

  Flow run(const Statement& statement) {
    switch (statement.kind) {
      case Statement::Kind::text: print(statement.names[0]); return Flow::on;
      case Statement::Kind::print: print(to_text(look_at(*statement.value).get())); return Flow::on;
      case Statement::Kind::branch:
        return run_all(is_true(look_at(*statement.value).get()) ? statement.body : statement.otherwise);
      case Statement::Kind::loop: run_loop(statement); return Flow::on;
      case Statement::Kind::set: run_set(statement); return Flow::on;
      case Statement::Kind::block: return run_all(statement.body);
      case Statement::Kind::leave: return Flow::leave;
      case Statement::Kind::next: return Flow::next;
    }
    SCALEBITS_ASSERT(false);
  }

  void run_set(const Statement& statement) {
    Json value;
    if (statement.value) {
      value = value_of(*statement.value);
    } else {
      std::string outside = std::exchange(out_, "");
      run_all(statement.body);
      value = std::exchange(out_, std::move(outside));
    }
    if (statement.names.size() == 1) return assign(scopes_.back(), statement.names[0], std::move(value));
    Json* const space = find(statement.names[0]);
    if (space == nullptr || !space->is_object()) fail_input("'{}' is not a namespace", statement.names[0]);
    budget_.charge(space->size());
    (*space)[statement.names[1]] = std::move(value);
  }

  void run_loop(const Statement& loop) {
    std::vector<Json> elements = elements_of(look_at(*loop.value).get(), budget_);
    if (loop.condition) {
      std::erase_if(elements, [&](const Json& element) {
        count_step();
        scopes_.emplace_back();
        bind(loop, element);
        const bool wanted = is_true(look_at(*loop.condition).get());
        scopes_.pop_back();
        return !wanted;
      });
    }
    const std::size_t count = elements.size();
    for (std::size_t i = 0; i < count; ++i) {
      count_step();
      scopes_.emplace_back();
      bind(loop, elements[i]);
      Json state = {{"index", i + 1},  {"index0", i},           {"first", i == 0},           {"last", i + 1 == count},
                    {"length", count}, {"revindex", count - i}, {"revindex0", count - i - 1}};
      const auto neighbour = [&](const char* name, std::size_t index) {
        budget_.charge(elements[index]);
        state[name] = elements[index];
      };
      if (i > 0) neighbour("previtem", i - 1);
      if (i + 1 < count) neighbour("nextitem", i + 1);
      assign(scopes_.back(), "loop", std::move(state));
      const Flow flow = run_all(loop.body);
      scopes_.pop_back();
      if (flow == Flow::leave) break;
    }
    if (count == 0) {
      scopes_.emplace_back();
      run_all(loop.otherwise);
      scopes_.pop_back();
    }
  }

  void bind(const Statement& loop, const Json& element) {
    budget_.charge(element);
    if (loop.names.size() == 1) return assign(scopes_.back(), loop.names[0], element);
    const std::vector<Json> parts = elements_of(element, budget_);
    if (parts.size() != loop.names.size())
      fail_input("{} names for {} parts of an element", loop.names.size(), parts.size());
    for (std::size_t i = 0; i < parts.size(); ++i) assign(scopes_.back(), loop.names[i], parts[i]);
  }

  void assign(Scope& scope, const std::string& name, Json value) {
    budget_.charge(scope.size());
    for (auto& [known, old] : scope)
      if (known == name) return void(old = std::move(value));
    scope.emplace_back(name, std::move(value));
  }

  Json* find(const std::string& name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      budget_.charge(scope->size());
      for (auto& [known, value] : *scope)
        if (known == name) return &value;
    }
    return nullptr;
  }

  /// A value where it lies in a variable or in the template, so that looking at a part of it copies nothing else; or
  /// one just made.
  struct Seen {
    const Json* place = nullptr;
    Json made;
    const Json& get() const { return place != nullptr ? *place : made; }
  };

  Seen look_at(const Expression& expression) {
    switch (expression.kind) {
      case Kind::literal: return {&expression.value, {}};
      case Kind::name:
        if (const Json* const found = find(expression.text)) return {found, {}};
        return {nullptr, is_defined(expression.text) ? Json("a function") : undefined()};
      case Kind::attribute: return part_in(look_at(*expression.operands[0]), expression.text);
      case Kind::item: {
        const Seen whole = look_at(*expression.operands[0]);
        return part_in(whole, value_of(*expression.operands[1]));
      }
      default: return {nullptr, value_of(expression)};
    }
  }

  Seen part_in(const Seen& whole, const Json& name) {
    const Json& value = whole.get();
    if (value.is_object()) budget_.charge(value.size());
    if (value.is_string()) budget_.charge(value.get_ref<const std::string&>().size());
    const Json* const found = find_part(value, name);
    if (whole.place != nullptr && found != nullptr) return {found, {}};
    Json part = part_of(value, name);
    budget_.charge(part);
    return {nullptr, std::move(part)};
  }

  Json value_of(const Expression& expression) {
    Json value = make_value(expression);
    budget_.charge(value);
    return value;
  }

  Json make_value(const Expression& expression) {
    const auto operand = [&](std::size_t index) { return value_of(*expression.operands[index]); };
    switch (expression.kind) {
      case Kind::literal:
      case Kind::name:
      case Kind::attribute:
      case Kind::item: {
        Seen seen = look_at(expression);
        return seen.place != nullptr ? *seen.place : std::move(seen.made);
      }
      case Kind::list: {
        Json list = Json::array();
        for (const auto& element : expression.operands) list.push_back(value_of(*element));
        return list;
      }
      case Kind::map: {
        Json map = Json::object();
        for (std::size_t i = 0; i < expression.operands.size(); i += 2) {
          budget_.charge(map.size());
          map[to_text(operand(i))] = operand(i + 1);
        }
        return map;
      }
      case Kind::slice: {
        Json border[3];
        for (std::size_t i = 0; i < 3; ++i)
          if (expression.operands[i + 1]) border[i] = operand(i + 1);
        return slice_of(look_at(*expression.operands[0]).get(), border[0], border[1], border[2], budget_);
      }
      case Kind::unary: return negate(expression.text, operand(0));
      case Kind::binary: return value_of_binary(expression);
      case Kind::conditional:
        if (is_true(look_at(*expression.operands[1]).get())) return operand(0);
        return expression.operands[2] ? operand(2) : undefined();
      case Kind::call:
      case Kind::method:
      case Kind::filter:
      case Kind::test: return value_of_call(expression);
    }
    SCALEBITS_ASSERT(false);
  }

  static Json negate(const std::string& sign, const Json& value) {
    if (sign == "not") return !is_true(value);
    return combine(sign == "-" ? "-" : "+", 0, value);
  }

  Json value_of_binary(const Expression& expression) {
    const std::string& sign = expression.text;
    const Seen left = look_at(*expression.operands[0]);
    if (sign == "and" || sign == "or")
      return is_true(left.get()) == (sign == "or") ? left.get() : value_of(*expression.operands[1]);
    const Seen right = look_at(*expression.operands[1]);
    // Equality looks through no more than either of two values of one kind.
    const bool equality = sign == "==" || sign == "!=";
    if (!equality || left.get().type() == right.get().type()) budget_.charge(left.get());
    if (!equality) budget_.charge(right.get());
    return combine(sign, left.get(), right.get());
  }

  Json value_of_call(const Expression& expression) {
    std::vector<Json> values;
    std::vector<std::pair<std::string, Json>> named;
    // The first operand of all but calls is what they are about: looked at, and copied by those who need to.
    const bool is_call = expression.kind == Kind::call;
    for (std::size_t i = is_call ? 0 : 1; i < expression.operands.size(); ++i)
      values.push_back(value_of(*expression.operands[i]));
    for (const auto& [name, value] : expression.named) named.emplace_back(name, value_of(*value));
    const Arguments arguments{values, named, budget_};
    if (is_call) return call_function(expression.text, arguments);
    const Seen subject = look_at(*expression.operands[0]);
    const Json& value = subject.get();
    if (expression.kind == Kind::test) {
      if (!values.empty()) budget_.charge(value);
      return holds(value, expression.text, arguments);
    }
    if (value.is_string()) budget_.charge(value);
    return expression.kind == Kind::method ? call_method(value, expression.text, arguments)
                                           : apply_filter(value, expression.text, arguments);
  }

  bool is_defined(std::string_view function) const {
    return is_function(function) && (function != "strftime_now" || now_);
  }

  Json call_function(const std::string& name, const Arguments& arguments) {
    if (!is_defined(name)) fail_input("the function '{}' is not defined here", name);
    if (name == "namespace" || name == "dict") {
      Json space = Json::object();
      for (const auto& [key, value] : arguments.named) {
        budget_.charge(space.size());
        space[key] = value;
      }
      return space;
    }
    if (name == "range") return range(arguments);
    if (arguments.values.size() != 1 || !arguments.values[0].is_string()) fail_input("{} wants one text", name);
    const std::string text = arguments.values[0].get<std::string>();
    if (name == "raise_exception") fail_input("the chat template refuses this conversation: {}", text);
    std::array<char, 256> formatted;
    return std::string(formatted.data(), std::strftime(formatted.data(), formatted.size(), text.c_str(), &*now_));
  }

  Json range(const Arguments& arguments) {
    std::int64_t bounds[3] = {0, 0, 1};
    const std::size_t count = arguments.values.size();
    if (count < 1 || count > 3) fail_input("range wants one to three whole numbers");
    for (std::size_t i = 0; i < count; ++i) {
      if (!arguments.values[i].is_number_integer()) fail_input("range wants whole numbers");
      bounds[count == 1 ? 1 : i] =
          std::clamp<std::int64_t>(arguments.values[i].get<std::int64_t>(), INT32_MIN, INT32_MAX);
    }
    if (bounds[2] == 0) fail_input("the step of a range must not be 0");
    Json list = Json::array();
    for (std::int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1]; i += bounds[2]) {
      if (static_cast<std::int64_t>(list.size()) == kMaxRange)
        fail_input("a range has more than {} numbers", kMaxRange);
      budget_.charge(Budget::kValueBytes);
      list.push_back(i);
    }
    return list;
  }

  const std::string& where_;
  const std::optional<std::tm>& now_;
  std::vector<Scope> scopes_;
  std::string out_;
  std::size_t steps_ = 0;
  Budget budget_;
};

void check(const Expression& expression, const std::string& where) {
  using Kind = Expression::Kind;
  const auto want = [&](bool known, const char* what, std::string (*all)()) {
    if (!known)
      fail_input("{}, line {}: the {} '{}' is not known; known are {}", where, expression.line, what, expression.text,
                 all());
  };
  const std::string& name = expression.text;
  if (expression.kind == Kind::filter) want(is_filter(name), "filter", known_filters);
  if (expression.kind == Kind::test) want(is_test(name), "test", known_tests);
  if (expression.kind == Kind::method) want(is_method(name), "method", known_methods);
  if (expression.kind == Kind::call) want(is_function(name), "function", known_functions);
  for (const auto& operand : expression.operands)
    if (operand) check(*operand, where);
  for (const auto& [unused, value] : expression.named) check(*value, where);
}

/// Refuses names that are not known, in branches that may never be taken too.
void check(const std::vector<Statement>& statements, const std::string& where) {
  for (const Statement& statement : statements) {
    if (statement.value) check(*statement.value, where);
    if (statement.condition) check(*statement.condition, where);
    check(statement.body, where);
    check(statement.otherwise, where);
  }
}

}  // namespace

Template::Template(std::string_view source, std::string where)
    : where_(std::move(where)), statements_(parse(source, where_)) {
  check(statements_, where_);
}

std::string Template::render(const Json& variables, const std::optional<std::tm>& now) const {
  return Renderer(where_, variables, now).render(statements_);
}

}  // namespace scalebits::jinja
