#include "graph/batch_plan.h"

#include "core/error.h"
#include "core/units.h"

#include <algorithm>

namespace scalebits {
namespace {

/// A micro-batch's own rows of what spans the batch: layer input, output and gradient and the head's, at most f32.
std::uint64_t staging_bytes(const ModelSpec& spec) { return 4 * 4 * static_cast<std::uint64_t>(spec.hidden); }

}  // namespace

std::uint64_t staged_window_bytes(const ModelSpec& spec, at::ScalarType operand, std::int64_t length) {
  return static_cast<std::uint64_t>(length) *
         (layer_activation_bytes(spec, operand) + layer_temporary_bytes(spec, operand) + staging_bytes(spec));
}

BatchPlan plan_batch(const ModelSpec& spec, at::ScalarType operand, const BatchShape& batch,
                     const ActivationBudget& budget) {
  const auto layers = static_cast<std::uint64_t>(spec.layers), length = static_cast<std::uint64_t>(batch.length);
  const std::uint64_t tokens = static_cast<std::uint64_t>(batch.begun * batch.windows) * length;
  const std::uint64_t kept = layer_activation_bytes(spec, operand), temporary = layer_temporary_bytes(spec, operand);
  // Layer inputs, the last one's output and their gradient; another device has no room to spare for the head's two.
  const std::uint64_t spanning = !batch.backward ? 2 : layers + (budget.host_bytes > 0 ? 4 : 2);
  const std::uint64_t inputs = 4 * static_cast<std::uint64_t>(spec.hidden) * tokens * spanning;
  BatchPlan plan;
  plan.staged = budget.host_bytes > 0 && inputs + (kept + temporary) * length > budget.bytes;
  const std::uint64_t inputs_room = plan.staged ? budget.host_bytes : budget.bytes;
  if (inputs > inputs_room)
    fail(ErrorKind::usage,
         "the layer inputs of {} windows of {} tokens take {}, more than the {} of memory given to activations; use "
         "fewer windows",
         batch.begun * batch.windows, batch.length, format_bytes(inputs), format_bytes(inputs_room));
  const std::uint64_t left = plan.staged ? budget.bytes : budget.bytes - inputs;
  plan.keep_all = batch.backward && !plan.staged && kept * layers * tokens + temporary * length <= left;
  const std::uint64_t for_all = plan.keep_all ? kept * layers * tokens : 0;
  const std::uint64_t per_window = plan.keep_all ? temporary * length
                                   : plan.staged ? staged_window_bytes(spec, operand, batch.length)
                                                 : (kept + temporary) * length;
  const auto fitting = static_cast<std::int64_t>((left - for_all) / per_window);
  if (budget.host_bytes > 0 && fitting == 0)
    fail(ErrorKind::unsupported_hardware,
         "one window of {} tokens takes {} of activations on the device, and {} of its memory are left for them; use "
         "shorter windows",
         batch.length, format_bytes(per_window), format_bytes(left));
  plan.windows_at_once = std::clamp<std::int64_t>(fitting, 1, batch.windows);
  plan.bytes = budget.bytes - left + for_all + per_window * static_cast<std::uint64_t>(plan.windows_at_once);
  return plan;
}

}  // namespace scalebits
