// Filters, tests and methods by name.
#include "chat/jinja_values.h"

#include "core/error.h"
#include "tokenizer/utf8.h"

#include <algorithm>
#include <map>
#include <optional>

namespace scalebits::jinja {
namespace {

using Function = Json (*)(const Json& value, const Arguments& arguments);
using Table = std::map<std::string, Function, std::less<>>;

std::string names_of(const Table& table) {
  std::string names;
  for (const auto& [name, function] : table) names += (names.empty() ? "" : ", ") + name;
  return names;
}

/// Argument number `index`, or the one of that name, or undefined.
Json argument(const Arguments& arguments, std::size_t index, std::string_view name) {
  if (index < arguments.values.size()) return arguments.values[index];
  for (const auto& [given, value] : arguments.named)
    if (given == name) return value;
  return undefined();
}

std::string text_argument(const Arguments& arguments, std::size_t index, std::string_view name) {
  const Json value = argument(arguments, index, name);
  if (!value.is_string()) fail_input("argument '{}' must be a text", name);
  return value.get<std::string>();
}

/// Bytes of the character at `at` when it is one of `set`, or white space as Python counts it without a set; else 0.
std::size_t strippable(std::string_view text, std::size_t at, const std::optional<std::string>& set) {
  const std::size_t length = std::max<std::size_t>(utf8_length(text, at), 1);
  const std::string_view character = text.substr(at, length);
  if (set) return set->find(character) != std::string::npos ? length : 0;
  constexpr std::string_view kWide[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                        "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                        "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  const auto byte = static_cast<unsigned char>(character[0]);
  const bool space = byte == ' ' || (byte >= 9 && byte <= 13) || (byte >= 28 && byte <= 31) ||
                     std::find(std::begin(kWide), std::end(kWide), character) != std::end(kWide);
  return space ? length : 0;
}

std::string strip(std::string_view text, const Arguments& arguments, bool left, bool right) {
  const Json given = argument(arguments, 0, "chars");
  std::optional<std::string> set;
  if (given.is_string()) set = given.get<std::string>();
  if (set) arguments.budget.charge(text.size() * set->size());
  std::size_t begin = 0, end = 0, at = 0;
  while (left && at < text.size()) {
    const std::size_t length = strippable(text, at, set);
    if (length == 0) break;
    at += length;
  }
  for (begin = end = at; at < text.size();) {
    const std::size_t length = strippable(text, at, set);
    at += length > 0 ? length : std::max<std::size_t>(utf8_length(text, at), 1);
    if (length == 0 || !right) end = at;
  }
  return std::string(text.substr(begin, end - begin));
}

char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

enum class Words {
  none,
  letters,
  blanks
};  // where words begin: nowhere but at the start, behind what is no letter,
    // behind white space, hyphens and opening brackets

template <bool first_upper, bool others_upper, Words words = Words::none>
Json change_case(const Json& value, const Arguments&) {
  std::string text = to_text(value);
  bool first = true;
  for (char& c : text) {
    if (static_cast<unsigned char>(c) >= 0x80)
      fail_input("upper and lower case are only known for ASCII, found '{}'", text);
    const bool letter = upper(c) != lower(c);
    c = (first ? first_upper : others_upper) ? upper(c) : lower(c);
    if (words == Words::letters) first = !letter;
    if (words == Words::blanks) first = std::string_view(" \t\n\r\f\v-({[<").find(c) != std::string_view::npos;
    if (words == Words::none) first = false;
  }
  return text;
}

Json split(const std::string& text, const Arguments& arguments) {
  if (arguments.values.size() + arguments.named.size() > 1) fail_input("split with a limit is not known");
  const std::string separator = text_argument(arguments, 0, "sep");
  if (separator.empty()) fail_input("split wants a separator that is not empty");
  Json parts = Json::array();
  std::size_t begin = 0;
  for (std::size_t found; (found = find_text(text, separator, begin)) != std::string::npos;
       begin = found + separator.size()) {
    arguments.budget.charge(2 * Budget::kValueBytes);
    parts.push_back(text.substr(begin, found - begin));
  }
  parts.push_back(text.substr(begin));
  return parts;
}

void want_size(std::size_t size) {
  if (size > kMaxSize) fail_input("a text grows beyond {} bytes", kMaxSize);
}

std::string replace(const std::string& text, const std::string& from, const std::string& to) {
  if (from.empty()) fail_input("replace wants a text that is not empty");
  std::string out;
  std::size_t begin = 0;
  for (std::size_t found; (found = find_text(text, from, begin)) != std::string::npos; begin = found + from.size()) {
    out.append(text, begin, found - begin) += to;
    want_size(out.size() + text.size() - found);
  }
  return out.append(text, begin);
}

Json pairs_of(const Json& value) {
  Json pairs = Json::array();
  if (is_undefined(value)) return pairs;
  if (!value.is_object()) fail_input("items wants a map");
  for (const auto& [key, part] : value.items()) pairs.push_back(Json::array({key, part}));
  return pairs;
}

Json select(const Json& value, const Arguments& arguments, bool wanted) {
  const std::string attribute = text_argument(arguments, 0, "attribute");
  const bool is_tested = arguments.values.size() >= 2;
  const std::string test = is_tested ? text_argument(arguments, 1, "test") : "";
  const auto tested_with = arguments.values.subspan(is_tested ? 2 : 0);
  Json kept = Json::array();
  for (const Json& element : elements_of(value, arguments.budget)) {
    const Json part = part_of(element, attribute);
    if (is_tested)
      for (const Json& each : tested_with) arguments.budget.charge(each);
    const bool chosen = is_tested ? holds(part, test, {tested_with, {}, arguments.budget}) : is_true(part);
    if (chosen == wanted) kept.push_back(element);
  }
  return kept;
}

Json end_of(const Json& value, const Arguments& arguments, bool last) {
  if (value.is_array() || value.is_string()) return part_of(value, last ? -1 : 0);
  const auto elements = elements_of(value, arguments.budget);
  if (elements.empty()) return undefined();
  return last ? elements.back() : elements.front();
}

const Table& methods() {
  static const Table table = {
      {"strip", [](const Json& v, const Arguments& a) { return Json(strip(to_text(v), a, true, true)); }},
      {"lstrip", [](const Json& v, const Arguments& a) { return Json(strip(to_text(v), a, true, false)); }},
      {"rstrip", [](const Json& v, const Arguments& a) { return Json(strip(to_text(v), a, false, true)); }},
      {"split", [](const Json& v, const Arguments& a) { return split(to_text(v), a); }},
      {"startswith",
       [](const Json& v, const Arguments& a) { return Json(to_text(v).starts_with(text_argument(a, 0, "prefix"))); }},
      {"endswith",
       [](const Json& v, const Arguments& a) { return Json(to_text(v).ends_with(text_argument(a, 0, "suffix"))); }},
      {"replace",
       [](const Json& v, const Arguments& a) {
         return Json(replace(to_text(v), text_argument(a, 0, "old"), text_argument(a, 1, "new")));
       }},
      {"upper", change_case<true, true>},
      {"lower", change_case<false, false>},
      {"title", change_case<true, false, Words::letters>},
      {"capitalize", change_case<true, false>},
  };
  return table;
}

const Table& map_methods() {
  static const Table table = {
      {"items", [](const Json& v, const Arguments&) { return pairs_of(v); }},
      {"get",
       [](const Json& v, const Arguments& a) {
         const Json found = part_of(v, text_argument(a, 0, "key"));
         if (!is_undefined(found)) return found;
         const Json otherwise = argument(a, 1, "default");
         return is_undefined(otherwise) ? Json() : otherwise;
       }},
      {"keys", [](const Json& v, const Arguments& a) { return Json(elements_of(v, a.budget)); }},
  };
  return table;
}

const Table& filters() {
  static const Table table = [] {
    Table all = {
        {"trim", [](const Json& v, const Arguments& a) { return Json(strip(to_text(v), a, true, true)); }},
        {"length", [](const Json& v, const Arguments&) { return Json(count_of(v)); }},
        {"join",
         [](const Json& v, const Arguments& a) {
           const std::string between = to_text(argument(a, 0, "d"));
           std::string text;
           bool first = true;
           for (const Json& element : elements_of(v, a.budget)) {
             text += (first ? "" : between) + to_text(element);
             a.budget.charge(between.size());
             want_size(text.size());
             first = false;
           }
           return Json(text);
         }},
        {"first", [](const Json& v, const Arguments& a) { return end_of(v, a, false); }},
        {"last", [](const Json& v, const Arguments& a) { return end_of(v, a, true); }},
        {"list", [](const Json& v, const Arguments& a) { return Json(elements_of(v, a.budget)); }},
        {"string", [](const Json& v, const Arguments&) { return Json(to_text(v)); }},
        {"default",
         [](const Json& v, const Arguments& a) {
           const bool absent = is_undefined(v) || (is_true(argument(a, 1, "boolean")) && !is_true(v));
           if (!absent) return v;
           const Json otherwise = argument(a, 0, "default_value");
           return is_undefined(otherwise) ? Json("") : otherwise;
         }},
        {"items", [](const Json& v, const Arguments&) { return pairs_of(v); }},
        {"selectattr", [](const Json& v, const Arguments& a) { return select(v, a, true); }},
        {"rejectattr", [](const Json& v, const Arguments& a) { return select(v, a, false); }},
        {"reverse", [](const Json& v, const Arguments& a) { return slice_of(v, {}, {}, -1, a.budget); }},
        {"safe", [](const Json& v, const Arguments&) { return v; }},
        // Only where tools are described, which this program never does: known, so that such templates can be read.
        {"tojson", [](const Json&, const Arguments&) -> Json { fail_input("descriptions of tools are not known"); }},
        {"reject", [](const Json&, const Arguments&) -> Json { fail_input("descriptions of tools are not known"); }},
    };
    for (const char* name : {"upper", "lower", "capitalize", "replace"}) all[name] = methods().at(name);
    all["title"] = change_case<true, false, Words::blanks>;
    all["count"] = all["length"];
    all["d"] = all["default"];
    return all;
  }();
  return table;
}

const Table& tests() {
  static const Table table = [] {
    const Function same = [](const Json& v, const Arguments& a) { return Json(equal(v, argument(a, 0, "other"))); };
    return Table{
        {"defined", [](const Json& v, const Arguments&) { return Json(!is_undefined(v)); }},
        {"undefined", [](const Json& v, const Arguments&) { return Json(is_undefined(v)); }},
        {"none", [](const Json& v, const Arguments&) { return Json(v.is_null()); }},
        {"string", [](const Json& v, const Arguments&) { return Json(v.is_string()); }},
        {"mapping", [](const Json& v, const Arguments&) { return Json(v.is_object()); }},
        {"sequence",
         [](const Json& v, const Arguments&) {
           return Json(v.is_array() || v.is_object() || v.is_string() || is_undefined(v));
         }},
        {"iterable",
         [](const Json& v, const Arguments&) {
           return Json(v.is_array() || v.is_object() || v.is_string() || is_undefined(v));
         }},
        {"number", [](const Json& v, const Arguments&) { return Json(v.is_number() || v.is_boolean()); }},
        {"integer", [](const Json& v, const Arguments&) { return Json(v.is_number_integer()); }},
        {"boolean", [](const Json& v, const Arguments&) { return Json(v.is_boolean()); }},
        {"true", [](const Json& v, const Arguments&) { return Json(v.is_boolean() && v.get<bool>()); }},
        {"false", [](const Json& v, const Arguments&) { return Json(v.is_boolean() && !v.get<bool>()); }},
        {"even", [](const Json& v, const Arguments&) { return Json(equal(combine("%", v, 2), 0)); }},
        {"odd", [](const Json& v, const Arguments&) { return Json(equal(combine("%", v, 2), 1)); }},
        {"in", [](const Json& v, const Arguments& a) { return combine("in", v, argument(a, 0, "seq")); }},
        {"equalto", same},
        {"eq", same},
    };
  }();
  return table;
}

Json call(const Table& table, const char* what, const Json& value, const std::string& name,
          const Arguments& arguments) {
  const auto found = table.find(name);
  if (found == table.end()) fail_input("{} '{}' is not known; known are {}", what, name, names_of(table));
  return found->second(value, arguments);
}

}  // namespace

Json call_method(const Json& value, const std::string& name, const Arguments& arguments) {
  if (value.is_object()) return call(map_methods(), "a map's method", value, name, arguments);
  if (value.is_string()) return call(methods(), "a text's method", value, name, arguments);
  fail_input("only texts and maps have methods, and '{}' is called on another value", name);
}

Json apply_filter(const Json& value, const std::string& name, const Arguments& arguments) {
  return call(filters(), "filter", value, name, arguments);
}

bool holds(const Json& value, const std::string& test, const Arguments& arguments) {
  return is_true(call(tests(), "test", value, test, arguments));
}

bool is_method(const std::string& name) { return methods().contains(name) || map_methods().contains(name); }
bool is_filter(const std::string& name) { return filters().contains(name); }
bool is_test(const std::string& name) { return tests().contains(name); }
std::string known_methods() { return names_of(methods()) + " of texts, " + names_of(map_methods()) + " of maps"; }
std::string known_filters() { return names_of(filters()); }
std::string known_tests() { return names_of(tests()); }

}  // namespace scalebits::jinja
