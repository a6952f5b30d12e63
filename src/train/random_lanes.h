// Sixteen counter-based random words at a time: element `index` of a tensor under a key of 64 bits gets a word that is
// a pure function of both. Cheaper than core/random.h, for draws that each element of each step needs. To be used
// inside functions that carry SCALEBITS_CLONES.
#pragma once

#include "train/element_lanes.h"

#include <cstdint>

namespace scalebits {

/// Two rounds of a 32-bit mixer (multiply, shift), the second with the other half of the key.
template <typename Word>
SCALEBITS_INLINE void mix_key(Word& x, std::uint32_t low, std::uint32_t high) {
  x += low;
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= (x >> 16) ^ high;
  x *= 0x7feb352du;
  x ^= x >> 15;
}

/// The words of elements index, index + 1, ….
SCALEBITS_INLINE void random_words(Words& words, std::uint32_t index, std::uint32_t low, std::uint32_t high) {
  words = Words{0, 1, 2, 3, 4, 5, 6, 7};
  words += index;
  mix_key(words, low, high);
}

}  // namespace scalebits
