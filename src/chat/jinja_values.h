// What the values of a Jinja template can do: Python's rules for text, numbers, lists and maps, over our JSON.
// Undefined is a kind of its own: it prints nothing, is false and empty, and has no parts.
#pragma once

#include "core/json.h"

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace scalebits::jinja {

inline Json undefined() { return Json(Json::value_t::discarded); }
inline bool is_undefined(const Json& value) { return value.is_discarded(); }

bool is_true(const Json& value);
bool equal(const Json& a, const Json& b);
/// What {{ value }} prints.
std::string to_text(const Json& value);
/// In the order of a loop: elements, characters, keys.
std::vector<Json> elements_of(const Json& value);

/// value.name or value[name]; undefined when there is none.
Json part_of(const Json& value, const Json& name);
/// value[begin:end:step]; each null where left out.
Json slice_of(const Json& value, const Json& begin, const Json& end, const Json& step);
/// An arithmetic sign, a comparison, "in" or "not in".
Json combine(std::string_view sign, const Json& a, const Json& b);

struct Arguments {
  std::span<const Json> values;
  std::span<const std::pair<std::string, Json>> named;
};

/// These throw Error(bad_input) naming what is known when `name` is not, and when arguments do not fit.
Json call_method(const Json& value, const std::string& name, const Arguments& arguments);
Json apply_filter(const Json& value, const std::string& name, const Arguments& arguments);
bool holds(const Json& value, const std::string& test, const Arguments& arguments);
/// Whether apply_filter and holds know it, so that a template can be refused before it is run; their names otherwise.
bool is_filter(const std::string& name);
bool is_test(const std::string& name);
std::string known_filters();
std::string known_tests();

}  // namespace scalebits::jinja
