// JSON as nlohmann::json (ordered, so that files are written in a fixed order), with errors that name the file.
#pragma once

#include "core/error.h"

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <string_view>

namespace scalebits {

using Json = nlohmann::ordered_json;

/// Parses `text`; `where` names it in the Error(bad_input) thrown when it is not JSON, nests deeply,
/// or repeats a key within one object.
Json parse_json(std::string_view text, const std::string& where);
/// The same for objects of many keys (vocabularies): sorted by key, so that reading n keys does not take n^2 steps.
nlohmann::json parse_json_sorted(std::string_view text, const std::string& where);
Json read_json_file(const std::filesystem::path& path);

/// object[key] as T; a missing key or another type is an Error naming `where`, the key, wanted and found.
template <typename T>
T json_value(const Json& object, const std::string& key, const std::string& where) {
  if (!object.is_object())
    fail_input("{}: wanted a JSON object with key '{}', found {}", where, key, object.type_name());
  const auto found = object.find(key);
  if (found == object.end()) fail_input("{}: key '{}' is missing", where, key);
  try {
    return found->get<T>();
  } catch (const nlohmann::json::exception&) {
    fail_input("{}: key '{}' has the wrong type: found {}", where, key, found->dump().substr(0, 80));
  }
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
