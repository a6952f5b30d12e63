#include "train/ordered_schemes.h"

#include "core/error.h"
#include "core/random.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace scalebits {
namespace {

std::vector<std::size_t> in_running_order(const ModelSpec& spec) {
  std::vector<std::size_t> order(linear_count(spec));
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

}  // namespace

std::vector<int> stages_of(const ModelSpec& spec, std::int64_t stages) {
  if (stages < 1 || stages > spec.layers)
    fail(ErrorKind::usage, "pipeline stages must be 1 to the model's {} layers, found {}", spec.layers, stages);
  std::vector<int> numbers;
  for (std::int64_t layer = 0; layer < spec.layers; ++layer)
    numbers.insert(numbers.end(), linear_kinds(spec).size(), static_cast<int>(layer * stages / spec.layers));
  return numbers;
}

std::vector<std::size_t> order_by_layer_index(const ModelSpec& spec) {
  std::vector<std::size_t> order = in_running_order(spec);
  const auto kinds = linear_kinds(spec).size();
  const auto off_middle = [&](std::size_t linear) {
    return std::abs(2 * static_cast<std::int64_t>(linear / kinds) - (spec.layers - 1));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return off_middle(a) < off_middle(b); });
  return order;
}

std::vector<std::size_t> order_by_layer_type(const ModelSpec& spec) {
  std::vector<std::size_t> order;
  for (const LinearKind kind :
       {LinearKind::gate, LinearKind::up, LinearKind::down, LinearKind::q, LinearKind::k, LinearKind::o, LinearKind::v})
    for (std::int64_t layer = 0; layer < spec.layers; ++layer) order.push_back(linear_index(spec, layer, kind));
  return order;
}

std::vector<std::size_t> random_order(const ModelSpec& spec, std::uint64_t seed) {
  std::vector<std::size_t> order = in_running_order(spec);
  const CounterRng rng(seed, 0x736368656d65);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i, i)]);
  return order;
}

PrecisionScheme fill_in_order(const ModelSpec& spec, const std::vector<std::size_t>& order, NumberFormat high,
                              NumberFormat low, double share, std::int64_t stages, bool per_product) {
  using enum LinearProduct;
  using Products = std::vector<LinearProduct>;  // of a layer, which get low precision together
  const std::vector<std::vector<Products>> rounds =
      per_product ? std::vector<std::vector<Products>>{{{input_gradient}, {weight_gradient}}, {{forward}}}
                  : std::vector<std::vector<Products>>{{{forward, input_gradient, weight_gradient}}};
  PrecisionScheme scheme = uniform_scheme(spec, high);
  const std::vector<double> flops = linear_flops(spec);
  const std::vector<int> stage = stages_of(spec, stages);
  std::map<int, double> missing;
  for (std::size_t linear = 0; linear < flops.size(); ++linear)
    missing[stage[linear]] += share * flops[linear] - (is_fp4(high) ? flops[linear] : 0);
  for (const std::vector<Products>& round : rounds)
    for (const std::size_t linear : order)
      for (const Products& products : round) {
        if (missing[stage[linear]] <= 1e-9 * flops[linear] || !is_fp4(low)) continue;
        for (const LinearProduct product : products) scheme[linear].set(product, low);
        missing[stage[linear]] -= flops[linear] * static_cast<double>(products.size()) / std::size(kLinearProducts);
      }
  for (const auto& [number, rest] : missing)
    if (rest > 1e-6 * flops[0])
      fail(ErrorKind::infeasible_budget,
           "stage {}: wanted at least {:.4f} of the operations in FP4, feasible with these options is 0 to {:.4f}",
           number, share, is_fp4(low) || is_fp4(high) ? 1.0 : 0.0);
  return scheme;
}

}  // namespace scalebits
