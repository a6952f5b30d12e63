#include "chat/jinja_values.h"

#include "core/error.h"
#include "tokenizer/utf8.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace scalebits::jinja {
namespace {

std::string kind_of(const Json& value) { return is_undefined(value) ? "an undefined value" : value.type_name(); }

bool is_numeric(const Json& value) { return value.is_number() || value.is_boolean(); }
bool is_whole(const Json& value) { return value.is_number_integer() || value.is_boolean(); }
std::int64_t whole(const Json& value) { return value.is_boolean() ? value.get<bool>() : value.get<std::int64_t>(); }
double real(const Json& value) { return value.is_boolean() ? value.get<bool>() : value.get<double>(); }

/// Calls body(character) for each in turn, until it returns false.
template <typename Body>
void for_each_character(std::string_view text, const Body& body) {
  for (std::size_t at = 0, length = 0; at < text.size(); at += length) {
    length = std::max<std::size_t>(utf8_length(text, at), 1);
    if (!body(text.substr(at, length))) return;
  }
}

[[noreturn]] void fail_beyond_64_bits(std::string_view sign) { fail_input("'{}' gives a number beyond 64 bits", sign); }

Json add(const Json& a, const Json& b) {
  if (a.is_string() && b.is_string()) {
    const auto &left = a.get_ref<const std::string&>(), &right = b.get_ref<const std::string&>();
    if (left.size() + right.size() > kMaxSize) fail_input("a text grows beyond {} bytes", kMaxSize);
    return left + right;
  }
  if (a.is_array() && b.is_array()) {
    if (a.size() + b.size() > kMaxSize) fail_input("a list grows beyond {} elements", kMaxSize);
    Json joined = a;
    for (const Json& element : b) joined.push_back(element);
    return joined;
  }
  if (std::int64_t sum = 0; is_whole(a) && is_whole(b)) {
    if (__builtin_add_overflow(whole(a), whole(b), &sum)) fail_beyond_64_bits("+");
    return sum;
  }
  if (is_numeric(a) && is_numeric(b)) return real(a) + real(b);
  fail_input("'+' does not join {} and {}", kind_of(a), kind_of(b));
}

Json calculate(std::string_view sign, const Json& a, const Json& b) {
  if (!is_numeric(a) || !is_numeric(b)) fail_input("'{}' wants numbers, found {} and {}", sign, kind_of(a), kind_of(b));
  const bool divides = sign == "/" || sign == "//" || sign == "%";
  if (divides && real(b) == 0) fail_input("'{}' divides by zero", sign);
  if (sign == "/" || !is_whole(a) || !is_whole(b)) {
    const double x = real(a), y = real(b);
    if (sign == "/") return x / y;
    if (sign == "//") return std::floor(x / y);
    if (sign == "%") return x - y * std::floor(x / y);
    return sign == "-" ? x - y : x * y;
  }
  const std::int64_t x = whole(a), y = whole(b);
  if (std::int64_t result = 0; sign == "-" || sign == "*") {
    const bool beyond = sign == "-" ? __builtin_sub_overflow(x, y, &result) : __builtin_mul_overflow(x, y, &result);
    if (beyond) fail_beyond_64_bits(sign);
    return result;
  }
  if (y == -1) return sign == "//" ? calculate("-", 0, a) : Json(0);             // the one quotient that may not fit
  const std::int64_t quotient = x / y - ((x % y != 0) && ((x < 0) != (y < 0)));  // towards minus infinity
  return sign == "//" ? quotient : x - quotient * y;
}

bool less(const Json& a, const Json& b, std::string_view sign) {
  if (is_numeric(a) && is_numeric(b)) return real(a) < real(b);
  if (a.is_string() && b.is_string()) return a.get_ref<const std::string&>() < b.get_ref<const std::string&>();
  fail_input("'{}' does not compare {} and {}", sign, kind_of(a), kind_of(b));
}

[[noreturn]] void fail_no_elements(const Json& value) {
  fail_input("wanted a list, a map or a text, found {}", kind_of(value));
}

bool contains(const Json& container, const Json& value) {
  if (container.is_string()) {
    if (!value.is_string()) fail_input("'in' a text wants a text, found {}", kind_of(value));
    return find_text(container.get_ref<const std::string&>(), value.get_ref<const std::string&>()) != std::string::npos;
  }
  if (container.is_object()) return value.is_string() && container.contains(value.get_ref<const std::string&>());
  if (is_undefined(container)) return false;
  if (!container.is_array()) fail_no_elements(container);
  return std::any_of(container.begin(), container.end(), [&](const Json& element) { return equal(element, value); });
}

}  // namespace

void Budget::charge(const Json& value, int depth) {
  if (depth > kMaxDepth) fail_input("lists and maps are nested deeper than {} levels", kMaxDepth);
  charge(kValueBytes);
  if (value.is_string()) charge(value.get_ref<const std::string&>().size());
  if (value.is_array())
    for (const Json& element : value) charge(element, depth + 1);
  if (value.is_object())
    for (const auto& [key, part] : value.get_ref<const Json::object_t&>()) {
      charge(kValueBytes + key.size());
      charge(part, depth + 1);
    }
}

bool is_true(const Json& value) {
  if (is_undefined(value) || value.is_null()) return false;
  if (is_numeric(value)) return real(value) != 0;
  return value.is_string() ? !value.get_ref<const std::string&>().empty() : !value.empty();
}

bool equal(const Json& a, const Json& b) {
  if (is_undefined(a) || is_undefined(b)) return is_undefined(a) && is_undefined(b);
  if (is_numeric(a) && is_numeric(b)) return real(a) == real(b);  // True == 1
  return a == b;
}

std::string to_text(const Json& value) {
  if (is_undefined(value)) return "";
  if (value.is_null()) return "None";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_number_integer()) return std::to_string(value.get<std::int64_t>());
  if (!value.is_number()) fail_input("printing {} is not known", kind_of(value));
  const std::string text = fmt::format("{}", value.get<double>());
  return text.find_first_not_of("-0123456789") == std::string::npos ? text + ".0" : text;
}

std::vector<Json> elements_of(const Json& value, Budget& budget) {
  std::vector<Json> all;
  if (is_undefined(value)) return all;
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    budget.charge(2 * Budget::kValueBytes * text.size());
    for_each_character(text, [&](std::string_view character) {
      all.emplace_back(std::string(character));
      return true;
    });
  } else if (value.is_array()) {
    budget.charge(value);
    all.assign(value.begin(), value.end());
  } else if (value.is_object()) {
    budget.charge(value);
    for (const auto& [key, unused] : value.items()) all.emplace_back(key);
  } else {
    fail_no_elements(value);
  }
  return all;
}

std::size_t count_of(const Json& value) {
  if (is_undefined(value)) return 0;
  if (value.is_array() || value.is_object()) return value.size();
  if (!value.is_string()) fail_no_elements(value);
  std::size_t count = 0;
  for_each_character(value.get_ref<const std::string&>(), [&](std::string_view) { return ++count, true; });
  return count;
}

std::size_t find_text(std::string_view text, std::string_view part, std::size_t from) {
  if (part.empty() || from >= text.size()) return part.empty() && from <= text.size() ? from : std::string_view::npos;
  const void* const found = ::memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

const Json* find_part(const Json& value, const Json& name) {
  if (is_undefined(value)) fail_input("an undefined value has no part '{}'", to_text(name));
  if (value.is_object() && name.is_string()) {
    const auto found = value.find(name.get_ref<const std::string&>());
    return found == value.end() ? nullptr : &*found;
  }
  if (!is_whole(name) || !value.is_array()) return nullptr;
  const auto count = static_cast<std::int64_t>(value.size());
  const std::int64_t index = whole(name) < 0 ? whole(name) + count : whole(name);
  return index < 0 || index >= count ? nullptr : &value[static_cast<std::size_t>(index)];
}

Json part_of(const Json& value, const Json& name) {
  if (const Json* const found = find_part(value, name)) return *found;
  if (!value.is_string() || !is_whole(name)) return undefined();
  const auto count = static_cast<std::int64_t>(count_of(value));
  std::int64_t index = whole(name) < 0 ? whole(name) + count : whole(name);
  Json part = undefined();
  if (index < 0) return part;
  for_each_character(value.get_ref<const std::string&>(), [&](std::string_view character) {
    if (index == 0) part = std::string(character);
    return index-- > 0;
  });
  return part;
}

Json slice_of(const Json& value, const Json& begin, const Json& end, const Json& step, Budget& budget) {
  if (!value.is_string() && !value.is_array()) fail_input("{} has no slices", kind_of(value));
  for (const Json* part : {&begin, &end, &step})
    if (!part->is_null() && !is_whole(*part)) fail_input("a slice wants whole numbers, found {}", kind_of(*part));
  std::vector<std::string_view> characters;
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    budget.charge(sizeof(std::string_view) * text.size());
    for_each_character(text, [&](std::string_view character) { return characters.push_back(character), true; });
  }
  const auto count = static_cast<std::int64_t>(value.is_string() ? characters.size() : value.size());
  // A step beyond the whole length takes one element, as any longer one does.
  const std::int64_t stride = step.is_null() ? 1 : std::clamp(whole(step), -count - 1, count + 1);
  if (stride == 0) fail_input("a slice's step must not be 0");
  // Python's rules: counted from the end when negative, then cut at the borders.
  const std::int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? count : count - 1;
  const auto border = [&](const Json& given, std::int64_t otherwise) {
    if (given.is_null()) return otherwise;
    return std::clamp(whole(given) < 0 ? whole(given) + count : whole(given), low, high);
  };
  const std::int64_t first = border(begin, stride > 0 ? low : high), last = border(end, stride > 0 ? high : low);
  Json list = Json::array();
  std::string text;
  for (std::int64_t i = first; stride > 0 ? i < last : i > last; i += stride) {
    const auto at = static_cast<std::size_t>(i);
    if (value.is_string())
      text += characters[at];
    else
      list.push_back(value[at]);
  }
  return value.is_string() ? Json(text) : list;
}

Json combine(std::string_view sign, const Json& a, const Json& b) {
  if (sign == "==") return equal(a, b);
  if (sign == "!=") return !equal(a, b);
  if (sign == "<") return less(a, b, sign);
  if (sign == ">") return less(b, a, sign);
  if (sign == "<=") return less(a, b, sign) || equal(a, b);
  if (sign == ">=") return less(b, a, sign) || equal(a, b);
  if (sign == "in") return contains(b, a);
  if (sign == "not in") return !contains(b, a);
  if (sign == "~") return add(to_text(a), to_text(b));
  return sign == "+" ? add(a, b) : calculate(sign, a, b);
}

}  // namespace scalebits::jinja
