// Which widths a random matrix has, as shares of its blocks: "2:0.5,3:0.3,4:0.2", or "3" for one width throughout.
#pragma once

#include "format/matrix_format.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

struct WidthMix {
  std::array<double, kMaxWidth + 1> share{};  // adds up to 1

  static WidthMix uniform(int width);
  /// Throws Error(usage) naming what it found: widths are 0 to 8, each once, and shares positive with a sum of 1.
  static WidthMix parse(std::string_view text);
  std::string text() const;
  /// Bits per weight of the codes alone.
  double mean_width() const;
};

/// A permutation of `count` channels, a pure function of its arguments.
std::vector<std::uint32_t> random_order(std::int64_t count, std::uint64_t seed, std::uint64_t stream);

/// Widths of all blocks at random places, their numbers as near to the shares as whole blocks come.
std::vector<std::uint8_t> random_widths(const MatrixFormat& format, const WidthMix& mix, std::uint64_t seed,
                                        std::uint64_t stream);

/// Groups as the default recipe codes them, ranges such that random codes of a matrix of `cols` inputs have about the
/// variance 1 / cols: activations keep their size.
SideFormat random_side_format(std::int64_t cols);

}  // namespace scalebits
