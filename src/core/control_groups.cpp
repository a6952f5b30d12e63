#include "core/control_groups.h"

#include <fstream>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

void visit_upwards(const fs::path& root, const fs::path& group, const std::function<void(const fs::path&)>& visit) {
  for (fs::path path = group;; path = path.parent_path()) {
    visit(root / path.relative_path());
    if (!path.has_relative_path()) return;
  }
}

}  // namespace

void each_control_group(const std::string& controller, const std::function<void(const fs::path&)>& visit) {
  const fs::path root = "/sys/fs/cgroup";
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1.
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (controllers.empty())
      visit_upwards(root, group, visit);
    else if (("," + controllers + ",").find("," + controller + ",") != std::string::npos)
      visit_upwards(root / controllers, group, visit);
  }
}

std::string line_of(const fs::path& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

}  // namespace scalebits
