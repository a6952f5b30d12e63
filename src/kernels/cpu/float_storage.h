// 16-bit floats as they lie in memory, so that a load can be chosen by type. Holds no code: files compiled for one
// instruction set may include it.
#pragma once

#include <cstdint>

namespace scalebits {

struct F16 {
  std::uint16_t bits;
};
struct BF16 {
  std::uint16_t bits;
};

}  // namespace scalebits
