// The control groups that this process lies in, which are how containers are given a part of a machine.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace scalebits {

/// visit(folder) of the group in which `controller` ("cpu", "memory") holds this process, of version 1 or 2, and of
/// every group that it lies in; their files state the limits. A folder need not be there.
void each_control_group(const std::string& controller, const std::function<void(const std::filesystem::path&)>& visit);

/// The first line of a file, empty where there is none.
std::string line_of(const std::filesystem::path& path);

}  // namespace scalebits
