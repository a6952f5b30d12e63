// From a lane's words to its fragments: registers of two f16 each, 2^shift·(offset + field), planes added up.
// Everything is exact: sums of planes are integers below 2048. kPlaneBits and the shift are compile-time, so that masks
// and exponents are immediates.
#pragma once

#include "kernels/cuda/device_layout.h"

namespace scalebits::cuda {

/// (word & mask) | exponent, one instruction on the card.
SCALEBITS_HD inline std::uint32_t mask_or(std::uint32_t word, std::uint32_t mask, std::uint32_t exponent) {
#if SCALEBITS_ON_CARD
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(word), "r"(mask), "r"(exponent));
  return result;
#else
  return (word & mask) | exponent;
#endif
}

/// The plane's kBits words of a lane → what they add to the 16 registers; kShift: the plane's lowest bit in the code.
/// `adds`: to what is there; else it is the first plane.
template <int kBits, int kShift, bool adds>
SCALEBITS_HD inline void expand_plane(const std::uint32_t* words, std::uint32_t* registers) {
  SCALEBITS_UNROLL for (int j = 0; j < kFragmentRegisters; ++j) {
    const int i = j % (16 / kBits), turn = kBits == 4 ? 4 * i : 2 * kBits * (i / 2);
    const int bit = kBits == 4 ? 6 : 10 - kBits * (2 - i % 2);
    const std::uint32_t mask = (((1u << kBits) - 1) << bit) * 0x00010001u;
    const std::uint32_t exponent = static_cast<std::uint32_t>((25 - bit + kShift) << 10) * 0x00010001u;
    const std::uint32_t part = mask_or(rotate_right(words[j / (16 / kBits)], turn), mask, exponent);
    registers[j] = adds ? add_halves(registers[j], part) : part;
  }
}

/// Loads the words of one lane out of a record: from memory of any kind, addressed by `at(byte offset in the record)`,
/// a pointer aligned to 4·bits. Calls only for planes that the width has.
template <int kBits, int kShift, bool adds, typename Load>
SCALEBITS_HD inline void load_plane(const Load& load, int first_byte, int lane, std::uint32_t* registers) {
  std::uint32_t words[kBits];
  load.template words<kBits>(first_byte + lane * 4 * kBits, words);
  expand_plane<kBits, kShift, adds>(words, registers);
}

/// The tile's 16 registers of a lane: offset + code as f16. `load.words<n>(byte, out)` reads n words at `byte` of the
/// record. Width 1 to 8, the same for all lanes.
template <typename Load>
SCALEBITS_HD inline void expand_tile(const Load& load, int width, int groups, int lane, std::uint32_t* registers) {
  const int codes = 32 * groups;
  if (width >= 4) {
    load_plane<4, 0, false>(load, codes, lane, registers);
    if (width == 5) load_plane<1, 4, true>(load, codes + 512, lane, registers);
    if (width == 6 || width == 7) load_plane<2, 4, true>(load, codes + 512, lane, registers);
    if (width == 7) load_plane<1, 6, true>(load, codes + 768, lane, registers);
    if (width == 8) load_plane<4, 4, true>(load, codes + 512, lane, registers);
  } else if (width >= 2) {
    load_plane<2, 0, false>(load, codes, lane, registers);
    if (width == 3) load_plane<1, 2, true>(load, codes + 256, lane, registers);
  } else {
    load_plane<1, 0, false>(load, codes, lane, registers);
  }
}

/// What turns the side codes of one matrix into numbers: scale = range[code] · inverse, the zero point plus
/// code_offset() = fma(code, zero_step, zero_base[half]); both within two roundings of the format's.
struct alignas(16) WidthConstants {
  float inverse, zero_step, zero_base[2];
};
struct alignas(16) SideConstants {
  WidthConstants width[9];
  float range[256];
  // Powers of two, each the other's inverse: weights times to_half lie in the middle of f16's range, none of their
  // steps below its normal numbers. 0: ranges are too far apart for that.
  float to_half, from_half;
};
SideConstants make_side_constants(const StoredShape& shape);

struct SideValues {
  float scale[2];  // of rows g and g + 8
  float zero[2];   // with code_offset() added
};
/// `factor`: that scales are multiplied by.
SCALEBITS_HD inline SideValues side_values(const SideConstants& side, std::uint32_t word, int width, float factor = 1) {
  const WidthConstants constants = side.width[width];
  const float inverse = constants.inverse * factor;
  SideValues values;
  SCALEBITS_UNROLL for (int half = 0; half < 2; ++half) {
    values.scale[half] = side.range[word >> (8 * half) & 255] * inverse;
    const float code = static_cast<float>(word >> (16 + 8 * half) & 255);
#if SCALEBITS_ON_CARD
    values.zero[half] = __fmaf_rn(code, constants.zero_step, constants.zero_base[half]);
#else
    values.zero[half] = std::fma(code, constants.zero_step, constants.zero_base[half]);
#endif
  }
  return values;
}

/// From offset + code, in the 8 or 16 registers of a group, to the weight times side.to_half, rounded to f16: (code −
/// zero) · scale, of which the scale and the product with the zero point's fraction are rounded, too; within 2^-10 of
/// the weight and 2^-11 of a step.
template <int registers_of_group>
SCALEBITS_HD inline void make_weights(const SideConstants& side, std::uint32_t word, int width,
                                      std::uint32_t* registers) {
  const SideValues values = side_values(side, word, width);
  std::uint32_t minus_whole[2], scale[2], rest[2];
  SCALEBITS_UNROLL for (int half = 0; half < 2; ++half) {
#if SCALEBITS_ON_CARD
    const float whole = rintf(values.zero[half]);
#else
    const float whole = std::rint(values.zero[half]);
#endif
    const float larger = values.scale[half] * side.to_half;
    minus_whole[half] = twice_half(-whole);
    scale[half] = twice_half(larger);
    rest[half] = twice_half(larger * (whole - values.zero[half]));
  }
  SCALEBITS_UNROLL for (int j = 0; j < registers_of_group; ++j) registers[j] =
      multiply_add_halves(add_halves(registers[j], minus_whole[j % 2]), scale[j % 2], rest[j % 2]);
}

}  // namespace scalebits::cuda
