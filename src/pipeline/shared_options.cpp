#include "pipeline/shared_options.h"

#include "core/hash.h"
#include "core/mapped_file.h"

#include <fmt/format.h>

namespace scalebits {
namespace {

constexpr const char* kDevices[] = {"cpu", "cuda", "cpu-tensors"};

std::string given(bool option) { return option ? "given" : "not given"; }

}  // namespace

void require_same_options(ProcessGroup& group, const QuantizeJob& job) {
  if (group.size() == 1) return;
  // By itself, since another program may have another list of options.
  group.require_same({{"program", hash_hex(MappedFile::open("/proc/self/exe")->bytes())}});
  std::vector<ProcessGroup::Shared> options{
      {"--stages", std::to_string(job.stages)},
      {"--device", kDevices[static_cast<std::size_t>(job.device.kind)]},
      {"--resume", given(job.resume)},
      {"--time-limit", job.time_limit_seconds ? fmt::format("{} s", *job.time_limit_seconds) : given(false)},
      {"--calibration", fmt::format("{} files", job.calibration.size())},
      {"--frontier", given(!job.frontier.empty())},
      {"--save-frontier", given(!job.save_frontier.empty())}};
  const Json recipe = to_json(job.recipe);
  for (const auto& [option, value] : recipe.items())
    options.push_back({fmt::format("recipe, option {}", option), value.dump()});
  group.require_same(options);
}

}  // namespace scalebits
