// JSON as nlohmann::json (ordered, so that files are written in a fixed order), with errors that name the file.
#pragma once

#include "core/error.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace scalebits {

using Json = nlohmann::ordered_json;

/// Parses `text`; `where` names it in the Error(bad_input) thrown when it is not JSON, nests deeply, holds a zero byte,
/// repeats a key within one object, or has more keys in one object than these can be looked up in.
Json parse_json(std::string_view text, const std::string& where);
/// The same for objects of many keys (vocabularies): sorted by key, so that reading n keys does not take n^2 steps.
nlohmann::json parse_json_sorted(std::string_view text, const std::string& where);
/// In the order that it has; refuses what parse_json would for its many keys.
Json as_ordered(const nlohmann::json& json, const std::string& where);
Json read_json_file(const std::filesystem::path& path);

/// Whether `value` is a T: nlohmann converts between numbers, signs and booleans silently, and cuts what is too large.
template <typename T>
bool json_holds(const Json& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::is_floating_point_v<T>) {
    return value.is_number();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) return std::in_range<T>(value.get<std::uint64_t>());
    return value.is_number_integer() && std::in_range<T>(value.get<std::int64_t>());
  } else {
    return true;  // nlohmann finds out
  }
}

/// object[key] as T; a missing key or another type is an Error naming `where`, the key, wanted and found.
template <typename T>
T json_value(const Json& object, const std::string& key, const std::string& where) {
  if (!object.is_object())
    fail_input("{}: wanted a JSON object with key '{}', found {}", where, key, object.type_name());
  const auto found = object.find(key);
  if (found == object.end()) fail_input("{}: key '{}' is missing", where, key);
  try {
    if (json_holds<T>(*found)) return found->get<T>();
  } catch (const nlohmann::json::exception&) {
  }
  fail_input("{}: key '{}' has the wrong type: found {}", where, key, found->dump().substr(0, 80));
}

/// The same with a default for a key that is absent or null.
template <typename T>
T json_value_or(const Json& object, const std::string& key, T otherwise, const std::string& where) {
  if (object.is_object()) {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return otherwise;
  }
  return json_value<T>(object, key, where);
}

}  // namespace scalebits
