// How much memory this process holds, for tests of what may not grow.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace scalebits {

inline std::int64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t whole = 0, resident = 0;
  statm >> whole >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace scalebits
