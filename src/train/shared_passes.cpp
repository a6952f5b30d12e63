#include "train/shared_passes.h"

#include "distributed/ordered_sums.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace scalebits {

std::int64_t SharedPasses::count_of(const at::Tensor& ids) const { return std::min(micro_batches_, ids.size(0)); }

MicroBatch SharedPasses::micro_batch(const at::Tensor& ids, std::int64_t part) const {
  const auto [first, count] = part_range(ids.size(0), count_of(ids), part);
  return {ids.narrow(0, first, count), static_cast<double>(count) / static_cast<double>(ids.size(0)), part};
}

double SharedPasses::loss_and_gradients(const at::Tensor& ids, const PrecisionScheme& scheme, std::uint64_t step) {
  const std::int64_t parts = count_of(ids);
  if (parts == 1) return graph_.loss_and_gradients(ids, scheme, step).mean;  // nothing to add up
  auto& parameters = graph_.parameters().all();
  std::vector<at::Tensor> sums{at::zeros({1}, at::kDouble)};
  // What travels between processes lies in host memory.
  const at::Device meeting = group_.size() > 1 ? at::kCPU : graph_.place().device;
  for (const Parameter& parameter : parameters)
    sums.push_back(at::zeros(parameter.gradient.sizes(), parameter.gradient.options().device(meeting)));
  sum_over_parts(group_, parts, sums, [&](std::int64_t part, std::vector<at::Tensor>& own) {
    const MicroBatch batch = micro_batch(ids, part);
    const auto draws = step * static_cast<std::uint64_t>(parts) + static_cast<std::uint64_t>(part);
    *own[0].data_ptr<double>() = batch.share * graph_.loss_and_gradients(batch.ids, scheme, draws).mean;
    for (std::size_t i = 0; i < parameters.size(); ++i)
      own[i + 1].add_(parameters[i].gradient.to(meeting), batch.share);
  });
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].gradient.copy_(sums[i + 1]);
  return *sums[0].data_ptr<double>();
}

double SharedPasses::loss(const at::Tensor& ids, const PrecisionScheme& scheme, std::int64_t windows_per_pass) {
  const std::int64_t windows = ids.size(0), passes = (windows + windows_per_pass - 1) / windows_per_pass;
  std::vector<at::Tensor> sums{at::zeros({1}, at::kDouble)};
  sum_over_parts(group_, passes, sums, [&](std::int64_t pass, std::vector<at::Tensor>& own) {
    const std::int64_t first = pass * windows_per_pass, count = std::min(windows_per_pass, windows - first);
    *own[0].data_ptr<double>() = graph_.loss(ids.narrow(0, first, count), scheme).mean * static_cast<double>(count);
  });
  return *sums[0].data_ptr<double>() / static_cast<double>(windows);
}

at::Tensor SharedPasses::mean(const at::Tensor& ids, at::IntArrayRef sizes,
                              const std::function<at::Tensor(const MicroBatch&)>& of) {
  std::vector<at::Tensor> sums{at::zeros(sizes, at::kDouble)};
  sum_over_parts(group_, count_of(ids), sums, [&](std::int64_t part, std::vector<at::Tensor>& own) {
    const MicroBatch batch = micro_batch(ids, part);
    own[0].add_(of(batch), batch.share);
  });
  return sums[0];
}

}  // namespace scalebits
