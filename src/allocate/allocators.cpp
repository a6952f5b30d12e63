#include "allocate/allocators.h"

#include "allocate/baq.h"
#include "allocate/baselines.h"
#include "allocate/optimum.h"
#include "core/error.h"

#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<Allocator, std::string_view> kNames[] = {
    {Allocator::scalebits, "scalebits"}, {Allocator::baq, "baq"},
    {Allocator::baq_layer, "baq-layer"}, {Allocator::fisher_quantile, "fisher-quantile"},
    {Allocator::uniform, "uniform"},     {Allocator::per_tensor, "per-tensor"},
    {Allocator::exact, "exact"}};

}  // namespace

std::string_view name_of(Allocator allocator) {
  for (const auto& [value, name] : kNames)
    if (value == allocator) return name;
  throw InternalError("unknown allocator");
}

Allocator allocator_from_name(std::string_view name) {
  for (const auto& [value, known] : kNames)
    if (known == name) return value;
  fail(ErrorKind::usage,
       "unknown allocator '{}'; known are scalebits, baq, baq-layer, fisher-quantile, uniform, per-tensor, exact",
       name);
}

BitPlan allocate_with(Allocator allocator, const AllocationProblem& problem) {
  const Choices& choices = problem.choices;
  const std::uint64_t target = problem.target_bytes;
  switch (allocator) {
    case Allocator::scalebits:
      knapsack_of(choices);  // checks the costs
      return allocate(choices, problem.start, target, problem.limits);
    case Allocator::baq: return allocate_baq(choices, problem.baq_loss, target, BaqScope::model);
    case Allocator::baq_layer: return allocate_baq(choices, problem.baq_loss, target, BaqScope::layer);
    case Allocator::fisher_quantile: return allocate_fisher_quantile(choices, problem.salience, target);
    case Allocator::uniform: return allocate_uniform(choices, target);
    case Allocator::per_tensor: return allocate_per_tensor(choices, target).plan;
    case Allocator::exact: return solve_exactly(knapsack_of(choices), target).plan;
  }
  throw InternalError("unknown allocator");
}

}  // namespace scalebits
