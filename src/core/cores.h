// The processor cores that this process may use: by the scheduler's affinity mask and by the quotas of its control
// groups, which are how containers are given a part of a machine.
#pragma once

#include <vector>

namespace scalebits {

/// Numbers of the cores in the affinity mask, ascending; at least one.
std::vector<int> allowed_cores();
/// How many threads have a core's time each: as many as allowed cores, fewer where a quota is lower; at least 1.
int available_cores();
/// Whole cores' worth of time in the quota (microseconds in each period) that the files of a control group state:
/// "200000 100000", or the two numbers apart, in cpu.max of version 2; "max" or a negative number is none: a large
/// number.
int cores_of_quota(const char* quota_and_period);

}  // namespace scalebits
