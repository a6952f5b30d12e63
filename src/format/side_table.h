// Every scale and zero point of a side format, by width: looked up in inner loops.
#pragma once

#include "format/side_format.h"

#include <array>
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
    for (int width = 1; width <= 8; ++width) {
      for (int code = 0; code < 1 << side.zero_bits; ++code)
        zeros[static_cast<std::size_t>(width)][static_cast<std::size_t>(code)] = zero_value(side, code, width);
    }
  }
  float scale(int code, int width) const {
    return scales[static_cast<std::size_t>(width)][static_cast<std::size_t>(code)];
  }
  float zero(int code, int width) const {
    return zeros[static_cast<std::size_t>(width)][static_cast<std::size_t>(code)];
  }

  SideFormat format;
  alignas(64) std::array<std::array<float, 256>, 9> scales{};
  alignas(64) std::array<std::array<float, 256>, 9> zeros{};
};

}  // namespace scalebits
