#include "format/side_format.h"

#include <algorithm>
#include <limits>

namespace scalebits {

void validate(const SideFormat& side, const std::string& where) {
  if (side.scale_bits < 4 || side.scale_bits > 8)
    fail_input("{}: scale_bits must be 4 to 8, found {}", where, side.scale_bits);
  if (side.zero_bits < 0 || side.zero_bits > 8)
    fail_input("{}: zero_bits must be 0 to 8, found {}", where, side.zero_bits);
  if (!(side.scale_step_log2 > 0) || !std::isfinite(side.scale_step_log2))
    fail_input("{}: scale_step_log2 must be positive and finite, found {}", where, side.scale_step_log2);
  if (!(side.zero_range >= 0 && side.zero_range <= 1024))
    fail_input("{}: zero_range must be 0 to 1024, found {}", where, side.zero_range);
  // |code − zero| ≤ (2^b − 1)/2 + zero_range · 2^b, in steps of range / (2^b − 1).
  const double largest =
      range_value(side, (1 << side.scale_bits) - 1) * (0.5 + 2.0 * static_cast<double>(side.zero_range));
  const float smallest = scale_value(side, 0, 8);
  if (!(smallest > 0) || !(largest <= std::numeric_limits<float>::max()))
    fail_input("{}: scales must be positive and weights finite, found a scale of {} and weights up to {}", where,
               smallest, largest);
}

double shortest_decimal(float value) {
  const double decimal = std::stod(fmt::format("{}", value));
  return static_cast<float>(decimal) == value ? decimal : static_cast<double>(value);
}

Json to_json(const SideFormat& side) {
  return Json::array({side.scale_bits, side.zero_bits, shortest_decimal(side.scale_base),
                      shortest_decimal(side.scale_step_log2), shortest_decimal(side.zero_range)});
}

SideFormat side_format_from_json(const Json& json, const std::string& where) {
  const bool numbers = json.is_array() && json.size() == 5 && json[0].is_number_integer() &&
                       json[1].is_number_integer() &&
                       std::all_of(json.begin(), json.end(), [](const Json& value) { return value.is_number(); });
  if (!numbers)
    fail_input("{}: wanted [scale_bits, zero_bits, scale_base, scale_step_log2, zero_range], found {}", where,
               json.dump().substr(0, 120));
  // Through 64 bits and a clamp, so that a huge integer is refused below and not wrapped into the range.
  const auto bits = [&](std::size_t i) {
    return static_cast<int>(std::clamp<std::int64_t>(json[i].get<std::int64_t>(), -1, 99));
  };
  const auto real = [&](std::size_t i) { return static_cast<float>(json[i].get<double>()); };
  const SideFormat side{bits(0), bits(1), real(2), real(3), real(4)};
  validate(side, where);
  return side;
}

void encode_side_codes(int bits, std::span<const std::uint8_t, 16> codes, std::span<std::byte> out) {
  SCALEBITS_ASSERT(bits >= 0 && bits <= 8 && out.size() == static_cast<std::size_t>(2 * bits));
  std::uint32_t pending = 0;
  int pending_bits = 0;
  std::size_t at = 0;
  for (const std::uint8_t code : codes) {
    SCALEBITS_ASSERT(code >> bits == 0);
    pending |= std::uint32_t{code} << pending_bits;
    for (pending_bits += bits; pending_bits >= 8; pending_bits -= 8, pending >>= 8)
      out[at++] = static_cast<std::byte>(pending);
  }
}

void decode_side_codes(int bits, std::span<const std::byte> stream, std::span<std::uint8_t, 16> codes) {
  SCALEBITS_ASSERT(bits >= 0 && bits <= 8 && stream.size() == static_cast<std::size_t>(2 * bits));
  std::uint32_t pending = 0;
  int pending_bits = 0;
  std::size_t at = 0;
  for (std::uint8_t& code : codes) {
    if (pending_bits < bits) {
      pending |= std::to_integer<std::uint32_t>(stream[at++]) << pending_bits;
      pending_bits += 8;
    }
    code = static_cast<std::uint8_t>(pending & ((1u << bits) - 1));
    pending >>= bits;
    pending_bits -= bits;
  }
}

std::uint8_t decode_side_code(int bits, std::span<const std::byte> stream, int index) {
  SCALEBITS_ASSERT(bits >= 0 && bits <= 8 && stream.size() == static_cast<std::size_t>(2 * bits) && index >= 0 &&
                   index < 16);
  if (bits == 0) return 0;
  const auto first = static_cast<std::size_t>(index * bits / 8);
  std::uint32_t window = std::to_integer<std::uint32_t>(stream[first]);
  if (first + 1 < stream.size()) window |= std::to_integer<std::uint32_t>(stream[first + 1]) << 8;
  return static_cast<std::uint8_t>((window >> (index * bits % 8)) & ((1u << bits) - 1));
}

}  // namespace scalebits
