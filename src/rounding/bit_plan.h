// The decision: a width for every block of every matrix. What allocators return, what the packer packs.
#pragma once

#include <cstdint>
#include <vector>

namespace scalebits {

/// widths[matrix][block], 0 to 8, blocks row-major; matrices as in the partition. Empty where a matrix is not
/// quantised.
struct BitPlan {
  std::vector<std::vector<std::uint8_t>> widths;
  bool operator==(const BitPlan&) const = default;
};

}  // namespace scalebits
