// Options out of JSON, just as they stand there, with words for what was wanted.
#pragma once

#include "core/json.h"

#include <optional>
#include <string>
#include <type_traits>

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
  bool sound = json_holds<T>(value);
  if constexpr (std::is_same_v<T, std::string>) sound = value.is_string();
  if (!sound) return std::nullopt;
  return value.get<T>();
}

}  // namespace scalebits
