// The memory that this process may count on: the machine's, or what its control groups leave of it.
#pragma once

#include <cstdint>

namespace scalebits {

/// Bytes; what other programs hold of it is not looked at.
std::uint64_t machine_memory_bytes();
/// Bytes that a control group's file states, such as memory.max; "max" or nothing is no limit: the largest number.
std::uint64_t bytes_of_limit(const char* limit);

}  // namespace scalebits
