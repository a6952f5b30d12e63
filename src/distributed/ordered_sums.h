// Sums over the parts of a batch whose result does not depend on how many processes share the work.
#pragma once

#include "distributed/process_group.h"

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace scalebits {

/// Calls work(part, own) for this process's share of the parts 0…parts−1, `own` being zeroed tensors like `sums` to add
/// to, and adds all parts' tensors to `sums`, everywhere, in the order of the parts. CPU tensors, contiguous.
/// Part p is worked by process p mod size.
void sum_over_parts(ProcessGroup& group, std::int64_t parts, std::vector<at::Tensor>& sums,
                    const std::function<void(std::int64_t part, std::vector<at::Tensor>& own)>& work);

/// Part `part` of `count` things cut into `parts`, as even as can be, in order: {first, number}.
std::pair<std::int64_t, std::int64_t> part_range(std::int64_t count, std::int64_t parts, std::int64_t part);

}  // namespace scalebits
