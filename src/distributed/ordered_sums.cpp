#include "distributed/ordered_sums.h"

#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace scalebits {

void sum_over_parts(ProcessGroup& group, std::int64_t parts, std::vector<at::Tensor>& sums,
                    const std::function<void(std::int64_t part, std::vector<at::Tensor>& own)>& work) {
  std::vector<at::Tensor> table;
  for (const at::Tensor& sum : sums) table.push_back(at::zeros_like(sum));
  const std::int64_t size = group.size();
  std::vector<at::Tensor> others;
  if (size > 1)
    for (const at::Tensor& sum : sums) others.push_back(at::zeros_like(sum));
  for (std::int64_t first = 0; first < parts; first += size) {
    const std::int64_t mine = first + group.rank();
    if (mine < parts) {
      for (at::Tensor& tensor : table) tensor.zero_();
      work(mine, table);
    }
    for (std::int64_t part = first; part < std::min(first + size, parts); ++part) {
      const std::vector<at::Tensor>& travelling = part == mine ? table : others;
      for (std::size_t i = 0; i < sums.size(); ++i) {
        if (sums[i].numel() == 0) continue;
        group.broadcast(travelling[i], static_cast<int>(part - first));
        sums[i].add_(travelling[i]);
      }
    }
  }
}

std::pair<std::int64_t, std::int64_t> part_range(std::int64_t count, std::int64_t parts, std::int64_t part) {
  const std::int64_t first = part * count / parts;
  return {first, (part + 1) * count / parts - first};
}

}  // namespace scalebits
