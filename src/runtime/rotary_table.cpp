#include "runtime/rotary_table.h"

#include <algorithm>
#include <cmath>

namespace scalebits {

void RotaryTable::reserve(std::int64_t positions) {
  const std::size_t half = frequencies_.size();
  auto position = static_cast<std::int64_t>(cosines_.size() / half);
  if (positions <= position) return;
  positions = std::max({positions, 2 * position, std::int64_t{256}});
  cosines_.reserve(index(positions));
  sines_.reserve(index(positions));
  for (; position < positions; ++position)
    for (const double frequency : frequencies_) {
      const double angle = static_cast<double>(position) * frequency;
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
}

}  // namespace scalebits
