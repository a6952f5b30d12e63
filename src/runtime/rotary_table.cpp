#include "runtime/rotary_table.h"

#include <algorithm>
#include <cmath>

namespace scalebits {

void RotaryTable::reserve(std::int64_t positions) {
  constexpr std::int64_t kStep = 1024;  // some milliseconds
  auto position = static_cast<std::int64_t>(cosines_.size() / frequencies_.size());
  if (positions <= position) return;
  positions = std::max(positions, position + kStep);
  for (; position < positions; ++position)
    for (const double frequency : frequencies_) {
      const double angle = static_cast<double>(position) * frequency;
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
}

}  // namespace scalebits
