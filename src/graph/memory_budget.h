// How much memory passes may take when nobody said.
#pragma once

#include <cstdint>

namespace scalebits {

/// How many of a job's processes this machine's memory is for, this one counted; 1 at the start. Not while passes run.
void share_memory(int processes);
/// Of this process's share of the machine's memory, or of what control groups leave of that.
std::uint64_t half_of_own_memory_bytes();

}  // namespace scalebits
