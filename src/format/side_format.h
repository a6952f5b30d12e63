// The side information of a group (consecutive inputs of one row): a scale code and a zero code, which turn a weight's
// code into its value: value = scale · (code − zero), in f32, subtraction first. Scale codes are logarithmic under one
// factor per matrix; zero codes are offsets from the centre of the code range, in units relative to that range.
// Computed in f64 and rounded once to f32, so that every reader gets the same bits.
#pragma once

#include "core/json.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace scalebits {

struct SideFormat {
  int scale_bits = 8;             // 4 to 8
  int zero_bits = 8;              // 0 to 8; 0: every zero is exactly the centre
  float scale_base = 1;           // the range (2^width − 1) · scale of code 0; positive
  float scale_step_log2 = 0.125;  // log2 of the ratio of neighbouring scales; positive
  float zero_range = 0.5;         // zeros lie in centre ± zero_range · 2^width; not negative

  bool operator==(const SideFormat&) const = default;
};

/// scale_base · 2^(code · scale_step_log2): what the levels of a group span, (2^width − 1) · scale.
inline double range_value(const SideFormat& side, int code) {
  return static_cast<double>(side.scale_base) * std::exp2(code * static_cast<double>(side.scale_step_log2));
}

/// range_value / (2^width − 1): a code names the range and not the scale, so that the same codes serve every width.
inline float scale_value(const SideFormat& side, int code, int width) {
  return static_cast<float>(range_value(side, code) / ((1 << width) - 1));
}

/// (2^width − 1)/2 + (code − H) · zero_range · 2^width / H with H = 2^(zero_bits − 1).
inline float zero_value(const SideFormat& side, int code, int width) {
  const int levels = 1 << width;
  const double centre = 0.5 * (levels - 1);
  if (side.zero_bits == 0) return static_cast<float>(centre);
  const int half = 1 << (side.zero_bits - 1);
  return static_cast<float>(centre + (code - half) * (static_cast<double>(side.zero_range) * levels / half));
}

/// Throws Error(bad_input) naming `where` and the field unless each field is in its range, every scale is a positive
/// f32 and every weight that codes can name is finite.
void validate(const SideFormat& side, const std::string& where);

/// [scale_bits, zero_bits, scale_base, scale_step_log2, zero_range]; floats as their shortest decimal, which reads back
/// to the same f32.
Json to_json(const SideFormat& side);
SideFormat side_format_from_json(const Json& json, const std::string& where);

/// The shortest decimal of a finite f32, as the f64 that JSON prints that way; a cast back to f32 is exact.
double shortest_decimal(float value);

/// 16 codes of `bits` bits (0 to 8) each ↔ 2·bits bytes: one little-endian bit stream, code i at bit i·bits.
void encode_side_codes(int bits, std::span<const std::uint8_t, 16> codes, std::span<std::byte> out);
void decode_side_codes(int bits, std::span<const std::byte> stream, std::span<std::uint8_t, 16> codes);
/// Code `index` alone.
std::uint8_t decode_side_code(int bits, std::span<const std::byte> stream, int index);

}  // namespace scalebits
