// How much memory passes may take when nobody said.
#pragma once

#include <cstdint>

namespace scalebits {

std::uint64_t half_of_physical_memory_bytes();

}  // namespace scalebits
