#include "core/units.h"

#include "core/error.h"

#include <charconv>
#include <cmath>
#include <algorithm>
#include <span>
#include <utility>

namespace scalebits {
namespace {

/// Splits "1.5GiB" into 1.5 and "GiB"; NaN when no finite, non-negative number stands in front.
std::pair<double, std::string_view> split_number(std::string_view text) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || !std::isfinite(value) || value < 0) return {NAN, text};
  std::string_view unit = text.substr(static_cast<std::size_t>(rest - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  return {value, unit};
}

struct Unit {
  std::string_view name;
  double factor;
};

double parse_with_units(std::string_view text, std::span<const Unit> units, std::string_view wanted) {
  const auto [value, name] = split_number(text);
  for (const Unit& unit : units)
    if (!std::isnan(value) && unit.name == name) return value * unit.factor;
  fail(ErrorKind::usage, "'{}' is not {}", text, wanted);
}

}  // namespace

std::uint64_t parse_bytes(std::string_view text) {
  static constexpr Unit kUnits[] = {{"", 1},         {"B", 1},      {"kB", 1e3},     {"KB", 1e3},
                                    {"MB", 1e6},     {"GB", 1e9},   {"KiB", 0x1p10}, {"MiB", 0x1p20},
                                    {"GiB", 0x1p30}, {"K", 0x1p10}, {"M", 0x1p20},   {"G", 0x1p30}};
  const double bytes = parse_with_units(text, kUnits, "a size such as 60MiB, 1.5GB or 123456");
  if (bytes >= 0x1p63) fail(ErrorKind::usage, "'{}' is too large a size", text);
  return static_cast<std::uint64_t>(bytes);
}

double parse_seconds(std::string_view text) {
  static constexpr Unit kUnits[] = {{"", 1}, {"s", 1}, {"sec", 1}, {"m", 60}, {"min", 60}, {"h", 3600}};
  return parse_with_units(text, kUnits, "a duration such as 90s, 30min or 1.5h");
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::string_view kNames[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kNames)) value /= 1024, ++unit;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kNames[unit]);
}

std::string format_seconds(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace scalebits
