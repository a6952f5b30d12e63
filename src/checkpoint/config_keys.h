// Inside the room: typed look-ups in a config.json.
#pragma once

#include "core/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace scalebits {

/// Typed look-ups in one JSON object. nlohmann converts between numbers and booleans silently; this does not.
class ConfigKeys {
 public:
  ConfigKeys(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail_input("{}: wanted a JSON object, found {}", where_, object.type_name());
  }
  const std::string& where() const { return where_; }
  bool has(const char* key) const { return object_.contains(key); }
  /// Null when the key is absent.
  Json get(const char* key) const { return has(key) ? object_.at(key) : Json(); }

  std::optional<std::int64_t> integer(const char* key) const {
    const Json value = get(key);
    if (value.is_null()) return std::nullopt;
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX))
      fail(key, "an integer");
    return value.get<std::int64_t>();
  }
  std::int64_t required_integer(const char* key) const {
    const auto value = integer(key);
    if (!value) fail_input("{}: key '{}' is missing", where_, key);
    return *value;
  }
  std::optional<double> number(const char* key) const {
    const Json value = get(key);
    if (value.is_null()) return std::nullopt;
    if (!value.is_number()) fail(key, "a number");
    return value.get<double>();
  }
  double required_number(const char* key) const {
    const auto value = number(key);
    if (!value) fail_input("{}: key '{}' is missing", where_, key);
    return *value;
  }
  bool flag(const char* key, bool otherwise) const {
    const Json value = get(key);
    if (value.is_null()) return otherwise;
    if (!value.is_boolean()) fail(key, "true or false");
    return value.get<bool>();
  }
  std::optional<std::string> text(const char* key) const {
    const Json value = get(key);
    if (value.is_null()) return std::nullopt;
    if (!value.is_string()) fail(key, "a string");
    return value.get<std::string>();
  }

 private:
  [[noreturn]] void fail(const char* key, const char* wanted) const {
    fail_input("{}: key '{}' must be {}, found {}", where_, key, wanted, get(key).dump().substr(0, 80));
  }
  const Json& object_;
  std::string where_;
};

}  // namespace scalebits
