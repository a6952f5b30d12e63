// The number formats that low-precision products read, and their exact scalar codecs (OCP Microscaling 1.0, OCP FP8
// 1.0, NVIDIA's NVFP4). A format is an element type, the tile that shares a scale, and the type of that scale.
// Subtle rule: encoding rounds to nearest even and saturates, as training does; a tile's scale makes saturation rare.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace scalebits {

/// A small float without infinities: sign, exponent, mantissa, subnormals as in IEEE.
struct SmallFloat {
  int exponent_bits, mantissa_bits, bias;
  float largest;
  bool has_nan;  // the code of all ones, in both signs

  int bits() const { return 1 + exponent_bits + mantissa_bits; }
  /// The exponent of the smallest normal number, which is also that of the subnormals' step times 2^mantissa_bits.
  int lowest_exponent() const { return 1 - bias; }
  /// Of the largest numbers.
  int highest_exponent() const { return (1 << exponent_bits) - 1 - bias; }
};

inline constexpr SmallFloat kE2M1{2, 1, 1, 6.0f, false};
inline constexpr SmallFloat kE4M3{4, 3, 7, 448.0f, true};

/// `code` < 2^bits. NaN where the format has one.
float decode(const SmallFloat& type, std::uint32_t code);
/// Nearest, ties to even; beyond the largest number, infinity included, the largest. A NaN becomes the positive NaN
/// code, and an InternalError where the format has none.
std::uint32_t encode(const SmallFloat& type, float value);
/// decode(encode(value)), but a NaN stays one whatever the format.
float round_to(const SmallFloat& type, float value);

/// A power of two of 8 bits: 2^(code - 127); code 255 is NaN.
float decode_e8m0(std::uint32_t code);

/// What the operands of a product are stored as.
enum class NumberFormat {
  bf16,   // the training graph's own operand type, no tiles
  fp8,    // E4M3, tiles of 128 along the contracted dimension, 128x128 blocks for weights, f32 scales
  fp4,    // E2M1, as fp8
  mxfp4,  // E2M1, tiles of 32 along the contracted dimension, E8M0 scales
  nvfp4   // E2M1, tiles of 16 along the contracted dimension, E4M3 scales under one f32 scale per tensor
};
inline constexpr NumberFormat kNumberFormats[] = {NumberFormat::bf16, NumberFormat::fp8, NumberFormat::fp4,
                                                  NumberFormat::mxfp4, NumberFormat::nvfp4};

std::string_view name_of(NumberFormat format);
/// Throws Error(usage) listing the known names.
NumberFormat number_format_from_name(const std::string& name);
/// Whether products of this format count as FP4 operations.
constexpr bool is_fp4(NumberFormat format) {
  return format == NumberFormat::fp4 || format == NumberFormat::mxfp4 || format == NumberFormat::nvfp4;
}
/// Not for bf16.
const SmallFloat& element_of(NumberFormat format);

/// Smaller scales would have no finite inverse in f32.
inline constexpr float kSmallestScale = 0x1p-110f;

/// The scale of a tile from its largest magnitude: an element stands for code value times scale. `tensor_scale` is
/// read by nvfp4 alone (see nvfp4_tensor_scale). Zero for a tile of zeros, or of numbers too small for a scale: its
/// elements all become zero. Infinite or NaN when the magnitude is.
float tile_scale(NumberFormat format, float largest, float tensor_scale);
/// The f32 scale over all of a tensor's E4M3 scales: the largest tile's becomes 448.
float nvfp4_tensor_scale(float tensor_largest);

}  // namespace scalebits
