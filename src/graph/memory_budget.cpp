#include "graph/memory_budget.h"

#include "core/error.h"
#include "core/machine_memory.h"

#include <atomic>

namespace scalebits {
namespace {

std::atomic<int> processes_here = 1;

}  // namespace

void share_memory(int processes) {
  SCALEBITS_ASSERT(processes >= 1);
  processes_here = processes;
}

std::uint64_t half_of_own_memory_bytes() {
  return machine_memory_bytes() / 2 / static_cast<std::uint64_t>(processes_here);
}

}  // namespace scalebits
