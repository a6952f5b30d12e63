#include "bench/bench_report.h"

#include <algorithm>

namespace scalebits {
namespace {

std::string shape_of(const ProductGroup& group) { return fmt::format("{}x{}", group.rows, group.cols); }

std::string pages_of(const ProductGroup& group) { return group.pages == WeightPool::Pages::huge ? "huge" : "ordinary"; }

const ProductTimes* find(const ProductGroup& group, std::string_view name, std::int64_t batch) {
  for (const ProductTimes& times : group.times)
    if (times.name == name && times.batch == batch) return &times;
  return nullptr;
}

/// The median over rounds of times[round] ÷ others[round].
double median_ratio(const std::vector<double>& times, const std::vector<double>& others) {
  std::vector<double> ratios;
  for (std::size_t round = 0; round < std::min(times.size(), others.size()); ++round)
    ratios.push_back(times[round] / others[round]);
  return median(std::move(ratios));
}

/// For each round, what the widths of `mix` take alone, weighted by their shares; empty when one was not measured.
std::vector<double> weighted_uniform(const ProductGroup& group, const WidthMix& mix, std::int64_t batch) {
  std::vector<double> sums;
  for (int width = 0; width <= kMaxWidth; ++width) {
    const double share = mix.share[static_cast<std::size_t>(width)];
    if (share == 0) continue;
    const ProductTimes* const uniform = find(group, fmt::format("uniform {}", width), batch);
    if (uniform == nullptr) return {};
    sums.resize(uniform->product.size());
    for (std::size_t round = 0; round < sums.size(); ++round) sums[round] += share * uniform->product[round];
  }
  return sums;
}

}  // namespace

std::vector<ProductRow> product_rows(const ProductGroup& group, const MachineRates& machine) {
  std::vector<ProductRow> rows;
  for (const ProductTimes& times : group.times) {
    const double seconds = median(times.product);
    const double operations =
        2.0 * static_cast<double>(group.rows) * static_cast<double>(group.cols) * static_cast<double>(times.batch);
    const double peak = machine.best_operations(times.kernel->isa);
    rows.push_back({.shape = shape_of(group),
                    .pages = pages_of(group),
                    .name = times.name,
                    .kernel = std::string(times.kernel->name),
                    .batch = times.batch,
                    .bits_per_weight = times.bits_per_weight,
                    .megabytes = times.bytes / 1e6,
                    .microseconds = 1e6 * seconds,
                    .best_microseconds = 1e6 * *std::min_element(times.product.begin(), times.product.end()),
                    .gigabytes_per_second = times.bytes / seconds / 1e9,
                    .over_read = seconds / median(times.read),
                    .roofline_share = times.bytes / machine.best_reading() / seconds,
                    .gigaflops = operations / seconds / 1e9,
                    .peak_share = peak > 0 ? operations / seconds / peak : 0});
  }
  return rows;
}

std::vector<RatioRow> product_ratios(const ProductGroup& group) {
  std::vector<RatioRow> ratios;
  const auto add = [&](std::string what, double value) {
    ratios.push_back({shape_of(group), pages_of(group), std::move(what), value});
  };
  std::vector<std::int64_t> batches;
  for (const ProductTimes& times : group.times)
    if (std::find(batches.begin(), batches.end(), times.batch) == batches.end()) batches.push_back(times.batch);
  for (const std::int64_t batch : batches) {
    const ProductTimes *two = find(group, "uniform 2", batch), *four = find(group, "uniform 4", batch);
    if (two != nullptr && four != nullptr)
      add(fmt::format("batch {}: time at {:.2f} bpw / at {:.2f} bpw", batch, two->bits_per_weight,
                      four->bits_per_weight),
          median_ratio(two->product, four->product));
    for (const ProductCase& one : group.cases) {
      const ProductTimes* const times = find(group, one.name, batch);
      if (times == nullptr || !one.name.starts_with("mixed")) continue;
      if (const auto uniform = weighted_uniform(group, one.widths, batch); one.orders && !uniform.empty())
        add(fmt::format("batch {}: {} / share-weighted uniform", batch, one.name),
            median_ratio(times->product, uniform));
      if (const ProductTimes* const plain = find(group, one.name + ", no orders", batch))
        add(fmt::format("batch {}: {} / without orders", batch, one.name),
            median_ratio(times->product, plain->product));
      if (const ProductTimes* const single = find(group, one.name, 1); single != nullptr && batch != 1 && one.orders)
        add(fmt::format("{}: batch {} / batch 1", one.name, batch), median(times->product) / median(single->product));
    }
  }
  return ratios;
}

std::vector<ModelRow> model_rows(const ModelBenchResult& result, const MachineRates& machine) {
  std::vector<ModelRow> rows;
  for (const ModelTimes& times : result.times) {
    ModelRow row{.work = times.work, .tokens = times.tokens, .context = times.context, .batch = times.batch};
    row.profile = times.profile;
    row.seconds = median(times.seconds);
    row.tokens_per_second = static_cast<double>(times.tokens * times.batch) / row.seconds;
    if (times.work == "decode" && result.placement.empty())  // of a card's memory this machine's bandwidth says nothing
      row.roofline_share = static_cast<double>(result.bytes_per_token) * static_cast<double>(times.tokens) /
                           machine.best_reading() / row.seconds;
    rows.push_back(std::move(row));
  }
  return rows;
}

Json to_json(const ProductRow& row) {
  return {{"shape", row.shape},
          {"pages", row.pages},
          {"weights", row.name},
          {"kernel", row.kernel},
          {"batch", row.batch},
          {"bits_per_weight", row.bits_per_weight},
          {"megabytes", row.megabytes},
          {"microseconds", row.microseconds},
          {"best_microseconds", row.best_microseconds},
          {"gigabytes_per_second", row.gigabytes_per_second},
          {"over_plain_read", row.over_read},
          {"roofline_share", row.roofline_share},
          {"gigaflops", row.gigaflops},
          {"peak_share", row.peak_share}};
}

Json to_json(const RatioRow& row) {
  return {{"shape", row.shape}, {"pages", row.pages}, {"what", row.what}, {"value", row.value}};
}

Json to_json(const ModelRow& row) {
  Json json = {{"work", row.work},
               {"tokens", row.tokens},
               {"context", row.context},
               {"batch", row.batch},
               {"seconds", row.seconds},
               {"tokens_per_second", row.tokens_per_second},
               {"roofline_share", row.roofline_share}};
  for (std::size_t i = 0; row.profile.passes > 0 && i < kOperations; ++i)
    if (row.profile.seconds[i] > 0)
      json["microseconds_a_pass"][std::string(name_of(static_cast<Operation>(i)))] =
          1e6 * row.profile.seconds[i] / static_cast<double>(row.profile.passes);
  return json;
}

}  // namespace scalebits
