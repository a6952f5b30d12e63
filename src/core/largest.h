// The largest of many floats, such as a vocabulary's logits, in one pass that also finds whether all of them are
// finite.
#pragma once

#include <cstdint>

namespace scalebits {

struct Largest {
  std::int64_t index = 0;  // the first of equals
  float value = 0;
  bool finite = true;  // no NaN and no Inf among all of them; without, the others mean nothing
};

/// Of `count` >= 1 values.
Largest largest_of(const float* values, std::int64_t count);

}  // namespace scalebits
