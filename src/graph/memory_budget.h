// How much memory passes may take when nobody said.
#pragma once

#include <cstdint>

namespace scalebits {

std::uint64_t physical_memory_bytes();
inline std::uint64_t half_of_physical_memory_bytes() { return physical_memory_bytes() / 2; }

}  // namespace scalebits
