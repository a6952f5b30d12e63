// What one backward pass tells about every block: how much loss its rounding error accounts for at each width. The
// product of this room; the allocators need nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace scalebits {

/// Which function of gradient G and rounding error D(b) = W − Q(W, b) scores a block at width b (docs/method.md).
enum class Statistic {
  absolute,     // Σ |G ⊙ D|
  signed_sum,   // |Σ G ⊙ D|
  fisher,       // Σ G² ⊙ D²
  gradient,     // Σ G², times 4^-b: the gradient alone, blind to the actual error
  weight_error  // Σ D²
};
std::string_view name_of(Statistic statistic);
/// Throws Error(usage) listing the known names.
Statistic statistic_from_name(std::string_view name);

/// Widths 0 (dropped) to 8.
using WidthScores = std::array<float, 9>;

/// scores[matrix][block][width], blocks row-major; matrices as in the partition.
struct SensitivityTable {
  std::vector<std::vector<WidthScores>> scores;
};

}  // namespace scalebits
