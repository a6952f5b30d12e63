// The most memory that this process has held at once, as Linux counts it.
#pragma once

#include <cstdint>

namespace scalebits {

/// Since the start or the last reset_peak_memory(); 0 where /proc does not tell.
std::uint64_t peak_memory_bytes();
/// Counts anew from what is held now, where the kernel lets it; otherwise the peak stays.
void reset_peak_memory();

}  // namespace scalebits
