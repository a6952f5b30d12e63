// Every scale and zero point of a side format, by width: looked up in inner loops. Zeros repeat themselves beyond the
// last code, so that a look-up may leave bits above a code's own standing.
#pragma once

#include "format/side_format.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace scalebits {

struct GroupCode {
  std::uint8_t scale = 0;
  std::uint8_t zero = 0;
};

struct SideTable {
  SideTable() = default;
  explicit SideTable(const SideFormat& side) : format(side) {
    for (int code = 0; code < 1 << side.scale_bits; ++code) {
      const double range = range_value(side, code);  // as scale_value(), with one exp2 for all widths
      for (int width = 1; width <= 8; ++width)
        scales[static_cast<std::size_t>(width)][static_cast<std::size_t>(code)] =
            static_cast<float>(range / ((1 << width) - 1));
    }
    for (std::size_t width = 1; width <= 8; ++width)
      for (int code = 0; code < 256; ++code)
        zeros[width][static_cast<std::size_t>(code)] =
            zero_value(side, code & ((1 << side.zero_bits) - 1), static_cast<int>(width));
    octave_of_eight = true;
    for (std::size_t width = 1; width <= 8; ++width)
      for (std::size_t code = 8; code < std::size_t{1} << side.scale_bits; ++code)
        if (scales[width][code] != 2 * scales[width][code - 8] || !std::isnormal(scales[width][code - 8]))
          octave_of_eight = false;
  }
  float scale(int code, int width) const {
    return scales[static_cast<std::size_t>(width)][static_cast<std::size_t>(code)];
  }
  float zero(int code, int width) const {
    return zeros[static_cast<std::size_t>(width)][static_cast<std::size_t>(code)];
  }

  SideFormat format;
  bool octave_of_eight = false;  // scales[w][c + 8] is exactly twice scales[w][c]
  alignas(64) std::array<std::array<float, 256>, 9> scales{};
  alignas(64) std::array<std::array<float, 256>, 9> zeros{};
};

}  // namespace scalebits
