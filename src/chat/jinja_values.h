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

/// What a template may make in all, so that each one ends in bounded time and memory: whoever copies or makes values,
/// or looks through them, charges for it.
class Budget {
 public:
  void charge(std::size_t bytes) {
    if (bytes > left_) fail_input("what the template makes grows beyond {} bytes", kBytes);
    left_ -= bytes;
  }
  /// A copy of the value. Refuses one that is nested too deeply.
  void charge(const Json& value) { charge(value, 0); }

  static constexpr std::size_t kValueBytes = 48;  // of any value, beside its text

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 28;
  static constexpr int kMaxDepth = 200;
  void charge(const Json& value, int depth);
  std::size_t left_ = kBytes;
};

// No text and no list grows beyond this: more than any conversation.
inline constexpr std::size_t kMaxSize = std::size_t{1} << 26;

bool is_true(const Json& value);
bool equal(const Json& a, const Json& b);
/// What {{ value }} prints.
std::string to_text(const Json& value);
/// In the order of a loop: elements, characters, keys.
std::vector<Json> elements_of(const Json& value, Budget& budget);
/// How many elements_of gives.
std::size_t count_of(const Json& value);
/// Where `part` stands in `text` from `from` on, or npos; in linear time.
std::size_t find_text(std::string_view text, std::string_view part, std::size_t from = 0);

/// value.name or value[name] where it lies, of a list or a map; null when there is none.
const Json* find_part(const Json& value, const Json& name);
/// The same, or a character of a text; undefined when there is none.
Json part_of(const Json& value, const Json& name);
/// value[begin:end:step]; each null where left out.
Json slice_of(const Json& value, const Json& begin, const Json& end, const Json& step, Budget& budget);
/// An arithmetic sign, a comparison, "in" or "not in".
Json combine(std::string_view sign, const Json& a, const Json& b);

struct Arguments {
  std::span<const Json> values;
  std::span<const std::pair<std::string, Json>> named;
  Budget& budget;
};

/// These throw Error(bad_input) naming what is known when `name` is not, and when arguments do not fit.
Json call_method(const Json& value, const std::string& name, const Arguments& arguments);
Json apply_filter(const Json& value, const std::string& name, const Arguments& arguments);
bool holds(const Json& value, const std::string& test, const Arguments& arguments);
/// Whether these know it, of methods whatever the value's kind, so that a template can be refused before it is run;
/// their names otherwise.
bool is_method(const std::string& name);
bool is_filter(const std::string& name);
bool is_test(const std::string& name);
std::string known_methods();
std::string known_filters();
std::string known_tests();

}  // namespace scalebits::jinja
