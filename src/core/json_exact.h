// Reading numbers out of JSON without the conversions between numbers, signs and booleans that nlohmann makes silently.
#pragma once

#include "core/json.h"

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace scalebits {

template <typename T>
concept JsonScalar = std::is_arithmetic_v<T> || std::is_same_v<T, std::string>;

/// What stands in JSON for a T, for messages.
template <JsonScalar T>
const char* json_name() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, std::string>) return "a string";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  return std::is_unsigned_v<T> ? "a whole number, not negative" : "a whole number";
}

/// None where `value` is not just that.
template <JsonScalar T>
std::optional<T> json_exactly(const Json& value) {
  bool sound = false;
  if constexpr (std::is_same_v<T, bool>)
    sound = value.is_boolean();
  else if constexpr (std::is_same_v<T, std::string>)
    sound = value.is_string();
  else if constexpr (std::is_floating_point_v<T>)
    sound = value.is_number();
  else if (value.is_number_unsigned())
    sound = std::in_range<T>(value.get<std::uint64_t>());
  else if (value.is_number_integer())
    sound = std::in_range<T>(value.get<std::int64_t>());
  if (!sound) return std::nullopt;
  return value.get<T>();
}

}  // namespace scalebits
