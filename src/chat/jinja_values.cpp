#include "chat/jinja_values.h"

#include "core/error.h"
#include "tokenizer/utf8.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

namespace scalebits::jinja {
namespace {

// More than any conversation; a template that doubles its text in a loop ends here.
constexpr std::size_t kMaxSize = std::size_t{1} << 26;

std::string kind_of(const Json& value) { return is_undefined(value) ? "an undefined value" : value.type_name(); }

bool is_numeric(const Json& value) { return value.is_number() || value.is_boolean(); }
bool is_whole(const Json& value) { return value.is_number_integer() || value.is_boolean(); }
std::int64_t whole(const Json& value) { return value.is_boolean() ? value.get<bool>() : value.get<std::int64_t>(); }
double real(const Json& value) { return value.is_boolean() ? value.get<bool>() : value.get<double>(); }

std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> all;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = std::max<std::size_t>(utf8_length(text, at), 1);
    all.push_back(text.substr(at, length));
    at += length;
  }
  return all;
}

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
  if (is_whole(a) && is_whole(b)) return whole(a) + whole(b);
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
  if (std::abs(x) > INT32_MAX || std::abs(y) > INT32_MAX) fail_input("'{}' meets numbers beyond 32 bits", sign);
  if (sign == "-") return x - y;
  if (sign == "*") return x * y;
  const std::int64_t quotient = x / y - ((x % y != 0) && ((x < 0) != (y < 0)));  // towards minus infinity
  return sign == "//" ? quotient : x - quotient * y;
}

bool less(const Json& a, const Json& b, std::string_view sign) {
  if (is_numeric(a) && is_numeric(b)) return real(a) < real(b);
  if (a.is_string() && b.is_string()) return a.get_ref<const std::string&>() < b.get_ref<const std::string&>();
  fail_input("'{}' does not compare {} and {}", sign, kind_of(a), kind_of(b));
}

bool contains(const Json& container, const Json& value) {
  if (container.is_string()) {
    if (!value.is_string()) fail_input("'in' a text wants a text, found {}", kind_of(value));
    return container.get_ref<const std::string&>().find(value.get_ref<const std::string&>()) != std::string::npos;
  }
  if (container.is_object()) return value.is_string() && container.contains(value.get_ref<const std::string&>());
  const auto elements = elements_of(container);
  return std::any_of(elements.begin(), elements.end(), [&](const Json& element) { return equal(element, value); });
}

}  // namespace

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

std::vector<Json> elements_of(const Json& value) {
  std::vector<Json> all;
  if (is_undefined(value)) return all;
  if (value.is_string()) {
    for (std::string& character : characters(value.get_ref<const std::string&>()))
      all.emplace_back(std::move(character));
  } else if (value.is_array()) {
    all.assign(value.begin(), value.end());
  } else if (value.is_object()) {
    for (const auto& [key, unused] : value.items()) all.emplace_back(key);
  } else {
    fail_input("wanted a list, a map or a text, found {}", kind_of(value));
  }
  return all;
}

Json part_of(const Json& value, const Json& name) {
  if (is_undefined(value)) fail_input("an undefined value has no part '{}'", to_text(name));
  if (value.is_object() && name.is_string()) {
    const auto found = value.find(name.get_ref<const std::string&>());
    return found == value.end() ? undefined() : *found;
  }
  if (!is_whole(name) || !(value.is_array() || value.is_string())) return undefined();
  const auto elements = elements_of(value);
  const auto count = static_cast<std::int64_t>(elements.size());
  const std::int64_t index = whole(name) < 0 ? whole(name) + count : whole(name);
  return index < 0 || index >= count ? undefined() : elements[static_cast<std::size_t>(index)];
}

Json slice_of(const Json& value, const Json& begin, const Json& end, const Json& step) {
  if (!value.is_string() && !value.is_array()) fail_input("{} has no slices", kind_of(value));
  for (const Json* part : {&begin, &end, &step})
    if (!part->is_null() && !is_whole(*part)) fail_input("a slice wants whole numbers, found {}", kind_of(*part));
  const auto elements = elements_of(value);
  const auto count = static_cast<std::int64_t>(elements.size());
  const std::int64_t stride = step.is_null() ? 1 : whole(step);
  if (stride == 0) fail_input("a slice's step must not be 0");
  // Python's rules: counted from the end when negative, then cut at the borders.
  const std::int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? count : count - 1;
  const auto border = [&](const Json& given, std::int64_t otherwise) {
    if (given.is_null()) return otherwise;
    return std::clamp(whole(given) < 0 ? whole(given) + count : whole(given), low, high);
  };
  const std::int64_t first = border(begin, stride > 0 ? low : high), last = border(end, stride > 0 ? high : low);
  Json list = Json::array();
  for (std::int64_t i = first; stride > 0 ? i < last : i > last; i += stride)
    list.push_back(elements[static_cast<std::size_t>(i)]);
  if (value.is_array()) return list;
  std::string text;
  for (const Json& character : list) text += character.get_ref<const std::string&>();
  return text;
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
