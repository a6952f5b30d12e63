#include "train/number_format.h"

#include "core/error.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<NumberFormat, std::string_view> kNames[] = {{NumberFormat::bf16, "bf16"},
                                                                {NumberFormat::fp8, "fp8"},
                                                                {NumberFormat::fp4, "fp4"},
                                                                {NumberFormat::mxfp4, "mxfp4"},
                                                                {NumberFormat::nvfp4, "nvfp4"}};

/// The power of two in a positive normal number.
float binade_of(float value) { return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0x7f800000u); }

/// round_to(kE4M3, scale) for scales >= 0, without its slow steps: adding 1.5 * 2^20 binades leaves three mantissa
/// bits.
float round_scale(float scale) {
  const float magic = 0x1.8p20f * std::max(binade_of(scale), 0x1p-6f);
  return std::min((scale + magic) - magic, kE4M3.largest);
}

}  // namespace

float decode(const SmallFloat& type, std::uint32_t code) {
  const std::uint32_t magnitude = code & ((1u << (type.bits() - 1)) - 1);
  const float sign = code >> (type.bits() - 1) ? -1.0f : 1.0f;
  if (type.has_nan && magnitude == (1u << (type.bits() - 1)) - 1)
    return std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
  const auto mantissa = static_cast<float>(magnitude & ((1u << type.mantissa_bits) - 1));
  const auto exponent = static_cast<int>(magnitude >> type.mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(mantissa, type.lowest_exponent() - type.mantissa_bits);
  return sign *
         std::ldexp(mantissa + static_cast<float>(1 << type.mantissa_bits), exponent - type.bias - type.mantissa_bits);
}

std::uint32_t encode(const SmallFloat& type, float value) {
  const std::uint32_t sign = std::signbit(value) ? 1u << (type.bits() - 1) : 0u;
  if (std::isnan(value)) {
    if (!type.has_nan) throw InternalError("a NaN has no code in this number format");
    return (1u << (type.bits() - 1)) - 1;
  }
  const float magnitude = std::min(std::fabs(value), type.largest);
  int exponent = type.lowest_exponent();
  if (magnitude > 0) exponent = std::max(exponent, std::ilogb(magnitude));
  // In units of the step between neighbours; a rounding up to the next power of two carries into the exponent.
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, type.mantissa_bits - exponent)));
  const auto above_lowest = static_cast<std::uint32_t>(exponent - type.lowest_exponent());
  return sign | (steps + (above_lowest << type.mantissa_bits));
}

float round_to(const SmallFloat& type, float value) {
  return std::isnan(value) ? value : decode(type, encode(type, value));
}

float decode_e8m0(std::uint32_t code) {
  return code == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, static_cast<int>(code) - 127);
}

std::string_view name_of(NumberFormat format) {
  for (const auto& [known, name] : kNames)
    if (known == format) return name;
  throw InternalError("unknown number format");
}

NumberFormat number_format_from_name(const std::string& name) {
  std::string known;
  for (const auto& [format, its_name] : kNames) {
    if (its_name == name) return format;
    known += (known.empty() ? "" : ", ") + std::string(its_name);
  }
  fail(ErrorKind::usage, "unknown number format '{}'; known are {}", name, known);
}

const SmallFloat& element_of(NumberFormat format) {
  if (format == NumberFormat::bf16) throw InternalError("bf16 has no tiles");
  return format == NumberFormat::fp8 ? kE4M3 : kE2M1;
}

float nvfp4_tensor_scale(float tensor_largest) { return tensor_largest / (kE4M3.largest * kE2M1.largest); }

float tile_scale(NumberFormat format, float largest, float tensor_scale) {
  if (!std::isfinite(largest)) return largest;
  const SmallFloat& element = element_of(format);
  float scale = largest / element.largest;
  if (format == NumberFormat::mxfp4) {
    // The power of two that brings the largest magnitude into the element's top binade, where above 6 it saturates.
    if (largest < kSmallestScale) return 0;
    scale = binade_of(largest) / binade_of(element.largest);
  } else if (format == NumberFormat::nvfp4) {
    if (tensor_scale < kSmallestScale) return 0;
    scale = round_scale(scale / tensor_scale) * tensor_scale;
  }
  return scale < kSmallestScale ? 0 : scale;
}

}  // namespace scalebits
