#include "core/machine_memory.h"

#include "core/control_groups.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <unistd.h>

namespace scalebits {
namespace {

std::uint64_t least_limit() {
  std::uint64_t bytes = bytes_of_limit("max");
  each_control_group("memory", [&](const std::filesystem::path& folder) {
    for (const char* const file : {"memory.max", "memory.high", "memory.limit_in_bytes"})  // versions 2, 2 and 1
      bytes = std::min(bytes, bytes_of_limit(line_of(folder / file).c_str()));
  });
  return bytes;
}

}  // namespace

std::uint64_t machine_memory_bytes() {
  static const std::uint64_t limit = least_limit();
  return std::min(limit, static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
                             static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
}

std::uint64_t bytes_of_limit(const char* limit) {
  char* end = nullptr;
  errno = 0;
  const std::uint64_t bytes = std::strtoull(limit, &end, 10);
  return end == limit || errno != 0 ? std::numeric_limits<std::uint64_t>::max() : bytes;
}

}  // namespace scalebits
