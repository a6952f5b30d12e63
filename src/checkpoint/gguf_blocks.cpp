#include "checkpoint/gguf_blocks.h"

#include "core/error.h"

#include <array>
#include <cstring>

namespace scalebits {
namespace {

constexpr int kSmall = 32;   // elements of a block of the plain formats
constexpr int kSuper = 256;  // elements of a block of the K formats

unsigned u8(std::byte value) { return std::to_integer<unsigned>(value); }
int i8(std::byte value) { return static_cast<std::int8_t>(std::to_integer<std::uint8_t>(value)); }

float f16_at(const std::byte* bytes) {
  std::uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return f16_to_f32(bits);
}

/// In a 32-element block byte i holds element i in its low and element i + 16 in its high nibble.
unsigned nibble(const std::byte* codes, int element) {
  return element < 16 ? u8(codes[element]) & 15 : u8(codes[element - 16]) >> 4;
}

/// Bit `element` of 32 little-endian bits, as bit 4 of a code.
unsigned fifth_bit(const std::byte* bits, int element) { return (u8(bits[element / 8]) >> (element % 8) & 1) << 4; }

// f16 scale; 16 bytes of nibbles: scale · (code − 8).
void decode_q4_0(const std::byte* block, float* out) {
  const float scale = f16_at(block);
  for (int i = 0; i < kSmall; ++i) out[i] = scale * static_cast<float>(static_cast<int>(nibble(block + 2, i)) - 8);
}

// f16 scale, f16 minimum; 16 bytes of nibbles: scale · code + minimum.
void decode_q4_1(const std::byte* block, float* out) {
  const float scale = f16_at(block), minimum = f16_at(block + 2);
  for (int i = 0; i < kSmall; ++i) out[i] = scale * static_cast<float>(nibble(block + 4, i)) + minimum;
}

// f16 scale; 32 fifth bits; 16 bytes of nibbles: scale · (code − 16).
void decode_q5_0(const std::byte* block, float* out) {
  const float scale = f16_at(block);
  for (int i = 0; i < kSmall; ++i)
    out[i] = scale * static_cast<float>(static_cast<int>(nibble(block + 6, i) | fifth_bit(block + 2, i)) - 16);
}

// f16 scale, f16 minimum; 32 fifth bits; 16 bytes of nibbles: scale · code + minimum.
void decode_q5_1(const std::byte* block, float* out) {
  const float scale = f16_at(block), minimum = f16_at(block + 2);
  for (int i = 0; i < kSmall; ++i)
    out[i] = scale * static_cast<float>(nibble(block + 8, i) | fifth_bit(block + 4, i)) + minimum;
}

// f16 scale; 32 signed bytes.
void decode_q8_0(const std::byte* block, float* out) {
  const float scale = f16_at(block);
  for (int i = 0; i < kSmall; ++i) out[i] = static_cast<float>(i8(block[2 + i])) * scale;
}

constexpr std::array<std::int8_t, 16> kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                    1,    13,   25,  38,  53,  69,  89,  113};

// f16 scale; 16 bytes of nibbles that index a table of values.
void decode_iq4_nl(const std::byte* block, float* out) {
  const float scale = f16_at(block);
  for (int i = 0; i < kSmall; ++i) out[i] = scale * static_cast<float>(kNonLinear[nibble(block + 2, i)]);
}

/// In the 2-bit planes of Q2_K and Q3_K each run of 32 bytes holds 128 elements: element e of the block lies in byte
/// e % 32 of run e / 128, at bits 2 · (e / 32 % 4).
unsigned two_bits(const std::byte* codes, int element) {
  return u8(codes[element / 128 * 32 + element % 32]) >> (2 * (element / 32 % 4)) & 3;
}

// 16 bytes of a 4-bit scale (low) and minimum (high) per 16 elements; 64 bytes of 2-bit codes; f16 scale of scales,
// f16 scale of minima.
void decode_q2_k(const std::byte* block, float* out) {
  const float scale = f16_at(block + 80), minimum = f16_at(block + 82);
  for (int group = 0; group < kSuper / 16; ++group) {
    const float group_scale = scale * static_cast<float>(u8(block[group]) & 15);
    const float group_minimum = minimum * static_cast<float>(u8(block[group]) >> 4);
    for (int i = 16 * group; i < 16 * group + 16; ++i)
      out[i] = group_scale * static_cast<float>(two_bits(block + 16, i)) - group_minimum;
  }
}

// 32 bytes whose bit e / 32 at byte e % 32, when clear, takes 4 off element e; 64 bytes of 2-bit codes; 16 scales of 6
// bits less 32: low nibbles in 8 bytes (scale s in byte s % 8), high pairs in 4 bytes (scale s in byte s % 4); f16
// scale.
void decode_q3_k(const std::byte* block, float* out) {
  const std::byte* codes = block + 32;
  const std::byte* scales = block + 96;
  const float scale = f16_at(block + 108);
  for (int group = 0; group < kSuper / 16; ++group) {
    const unsigned low = u8(scales[group % 8]) >> (4 * (group / 8)) & 15;
    const unsigned high = u8(scales[8 + group % 4]) >> (2 * (group / 4)) & 3;
    const float group_scale = scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const bool keeps = u8(block[i % 32]) >> (i / 32) & 1;
      out[i] = group_scale * static_cast<float>(static_cast<int>(two_bits(codes, i)) - (keeps ? 0 : 4));
    }
  }
}

struct ScaleAndMinimum {
  unsigned scale, minimum;
};

/// The eight 6-bit scales and minima of Q4_K and Q5_K in 12 bytes: the first four are the low 6 bits of bytes 0–3 and
/// 4–7; the others take their low nibbles from bytes 8–11 and their high pairs from the top of bytes 0–3 and 4–7.
ScaleAndMinimum scale_and_minimum(const std::byte* bytes, int group) {
  if (group < 4) return {u8(bytes[group]) & 63, u8(bytes[group + 4]) & 63};
  const unsigned low = u8(bytes[group + 4]);
  return {(low & 15) | (u8(bytes[group - 4]) >> 6) << 4, low >> 4 | (u8(bytes[group]) >> 6) << 4};
}

/// In Q4_K and Q5_K each run of 32 bytes holds two groups of 32: the even one in the low nibbles, the odd in the high.
unsigned group_nibble(const std::byte* codes, int group, int i) {
  return u8(codes[group / 2 * 32 + i]) >> (4 * (group % 2)) & 15;
}

// f16 scale, f16 scale of minima; 12 bytes of scales and minima per 32 elements; 128 bytes of nibbles.
void decode_q4_k(const std::byte* block, float* out) {
  const float scale = f16_at(block), minimum = f16_at(block + 2);
  for (int group = 0; group < kSuper / 32; ++group) {
    const auto [s, m] = scale_and_minimum(block + 4, group);
    const float group_scale = scale * static_cast<float>(s), group_minimum = minimum * static_cast<float>(m);
    for (int i = 0; i < 32; ++i)
      out[32 * group + i] = group_scale * static_cast<float>(group_nibble(block + 16, group, i)) - group_minimum;
  }
}

// As Q4_K, with 32 bytes of fifth bits (bit g of byte i for element i of group g) before the nibbles.
void decode_q5_k(const std::byte* block, float* out) {
  const float scale = f16_at(block), minimum = f16_at(block + 2);
  for (int group = 0; group < kSuper / 32; ++group) {
    const auto [s, m] = scale_and_minimum(block + 4, group);
    const float group_scale = scale * static_cast<float>(s), group_minimum = minimum * static_cast<float>(m);
    for (int i = 0; i < 32; ++i) {
      const unsigned fifth = (u8(block[16 + i]) >> group & 1) << 4;
      out[32 * group + i] =
          group_scale * static_cast<float>(group_nibble(block + 48, group, i) | fifth) - group_minimum;
    }
  }
}

// 128 bytes of nibbles: each run of 64 bytes holds 128 elements, the first 64 low, the others high; 64 bytes of the
// upper two bits, laid out as two_bits(); 16 signed scales, one per 16 elements; f16 scale: scales · (code − 32).
void decode_q6_k(const std::byte* block, float* out) {
  const std::byte* upper = block + 128;
  const std::byte* scales = block + 192;
  const float scale = f16_at(block + 208);
  for (int group = 0; group < kSuper / 16; ++group) {
    const float group_scale = scale * static_cast<float>(i8(scales[group]));
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const unsigned low = u8(block[i / 128 * 64 + i % 64]) >> (4 * (i / 64 % 2)) & 15;
      out[i] = group_scale * static_cast<float>(static_cast<int>(low | two_bits(upper, i) << 4) - 32);
    }
  }
}

constexpr GgufFormat kFormats[] = {
    {0, "F32", 1, 4, DType::f32},
    {1, "F16", 1, 2, DType::f16},
    {30, "BF16", 1, 2, DType::bf16},
    {2, "Q4_0", kSmall, 18, std::nullopt, decode_q4_0},
    {3, "Q4_1", kSmall, 20, std::nullopt, decode_q4_1},
    {6, "Q5_0", kSmall, 22, std::nullopt, decode_q5_0},
    {7, "Q5_1", kSmall, 24, std::nullopt, decode_q5_1},
    {8, "Q8_0", kSmall, 34, std::nullopt, decode_q8_0},
    {10, "Q2_K", kSuper, 84, std::nullopt, decode_q2_k},
    {11, "Q3_K", kSuper, 110, std::nullopt, decode_q3_k},
    {12, "Q4_K", kSuper, 144, std::nullopt, decode_q4_k},
    {13, "Q5_K", kSuper, 176, std::nullopt, decode_q5_k},
    {14, "Q6_K", kSuper, 210, std::nullopt, decode_q6_k},
    {20, "IQ4_NL", kSmall, 18, std::nullopt, decode_iq4_nl},
};

}  // namespace

const GgufFormat* find_gguf_format(std::uint32_t id) {
  for (const GgufFormat& format : kFormats)
    if (format.id == id) return &format;
  return nullptr;
}

std::string known_gguf_formats() {
  std::string names;
  for (const GgufFormat& format : kFormats) names += (names.empty() ? "" : ", ") + std::string(format.name);
  return names;
}

void decode_gguf_blocks(const GgufFormat& format, std::span<const std::byte> bytes, std::span<float> out) {
  SCALEBITS_ASSERT(format.decode != nullptr);
  const auto block_bytes = static_cast<std::size_t>(format.block_bytes);
  const auto block_elements = static_cast<std::size_t>(format.block_elements);
  SCALEBITS_ASSERT(bytes.size() % block_bytes == 0 && out.size() == bytes.size() / block_bytes * block_elements);
  for (std::size_t block = 0; block * block_bytes < bytes.size(); ++block)
    format.decode(bytes.data() + block * block_bytes, out.data() + block * block_elements);
}

}  // namespace scalebits
