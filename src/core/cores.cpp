#include "core/cores.h"

#include "core/control_groups.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <sched.h>
#include <string>

namespace scalebits {
namespace {

/// The least quota of version 1 or 2.
int cores_of_groups() {
  int cores = INT_MAX;
  each_control_group("cpu", [&](const std::filesystem::path& folder) {
    if (const std::string both = line_of(folder / "cpu.max"); !both.empty())
      cores = std::min(cores, cores_of_quota(both.c_str()));
    if (const std::string quota = line_of(folder / "cpu.cfs_quota_us"); !quota.empty())
      cores = std::min(cores, cores_of_quota((quota + " " + line_of(folder / "cpu.cfs_period_us")).c_str()));
  });
  return cores;
}

}  // namespace

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  std::vector<int> result;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) result.push_back(core);
  return result;
}

int available_cores() {
  static const int quota = cores_of_groups();
  return std::min(static_cast<int>(allowed_cores().size()), quota);
}

int cores_of_quota(const char* quota_and_period) {
  char *rest = nullptr, *end = nullptr;
  const long quota = std::strtol(quota_and_period, &rest, 10);
  const long period = rest == quota_and_period ? 0 : std::strtol(rest, &end, 10);
  if (quota <= 0 || period <= 0) return INT_MAX;
  return static_cast<int>(std::clamp(quota / period, 1L, static_cast<long>(INT_MAX)));
}

}  // namespace scalebits
