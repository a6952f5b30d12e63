#include "core/cores.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sched.h>
#include <string>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

std::string line_of(const fs::path& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

/// The least quota of a group of version 1 or 2 under `root` and of those that it lies in.
int least_quota(const fs::path& root, const fs::path& group) {
  int cores = INT_MAX;
  for (fs::path path = group;; path = path.parent_path()) {
    const fs::path folder = root / path.relative_path();
    if (const std::string both = line_of(folder / "cpu.max"); !both.empty())
      cores = std::min(cores, cores_of_quota(both.c_str()));
    if (const std::string quota = line_of(folder / "cpu.cfs_quota_us"); !quota.empty())
      cores = std::min(cores, cores_of_quota((quota + " " + line_of(folder / "cpu.cfs_period_us")).c_str()));
    if (!path.has_relative_path()) return cores;
  }
}

int cores_of_groups() {
  int cores = INT_MAX;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1.
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (controllers.empty())
      cores = std::min(cores, least_quota("/sys/fs/cgroup", group));
    else if (("," + controllers + ",").find(",cpu,") != std::string::npos)
      cores = std::min(cores, least_quota(fs::path("/sys/fs/cgroup") / controllers, group));
  }
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
