#include "bench/machine_rates.h"

#include "bench/machine_loops.h"
#include "core/error.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>

namespace scalebits {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Rate rate_of(std::string_view name, Isa isa, double amount, int repeats, const std::function<void()>& work) {
  std::vector<double> rates;
  for (int i = 0; i < repeats; ++i) rates.push_back(amount / seconds_of(work));
  return {std::string(name), isa, *std::max_element(rates.begin(), rates.end()), median(rates)};
}

/// Rounds that take about 20 ms.
std::int64_t calibrated_rounds(const PeakLoop& loop) {
  constexpr std::int64_t kFew = 20000;
  loop.run(kFew);
  const double seconds = std::max(1e-6, seconds_of([&] { loop.run(kFew); }));
  return std::max<std::int64_t>(kFew, std::llround(kFew * 0.02 / seconds));
}

}  // namespace

double median(std::vector<double> values) {
  SCALEBITS_ASSERT(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double MachineRates::best_reading() const {
  double best = 0;
  for (const Rate& rate : reading) best = std::max(best, rate.best);
  return best;
}

double MachineRates::best_operations(Isa isa) const {
  double best = 0;
  for (const Rate& rate : operations)
    if (rate.isa <= isa) best = std::max(best, rate.best);
  return best;
}

MachineRates better_of(MachineRates one, const MachineRates& other) {
  const auto keep = [](std::vector<Rate>& rates, const std::vector<Rate>& others) {
    SCALEBITS_ASSERT(rates.size() == others.size());
    for (std::size_t i = 0; i < rates.size(); ++i) {
      rates[i].best = std::max(rates[i].best, others[i].best);
      rates[i].median = std::max(rates[i].median, others[i].median);
    }
  };
  keep(one.reading, other.reading);
  keep(one.operations, other.operations);
  return one;
}

MachineRates measure_machine(ThreadPool& threads, Isa highest, WeightPool& pool, int repeats) {
  MachineRates rates;
  for (const ReadLoop& loop : read_loops())
    if (loop.isa <= highest && machine_has(loop.isa))
      rates.reading.push_back(rate_of(loop.name, loop.isa, static_cast<double>(pool.bytes().size()), repeats,
                                      [&] { read_all(threads, loop.isa, pool.bytes()); }));
  for (const PeakLoop& loop : peak_loops()) {
    if (loop.isa > highest || !machine_has(loop.isa)) continue;
    const std::int64_t rounds = calibrated_rounds(loop);
    std::atomic<std::int32_t> seen = 0;
    rates.operations.push_back(
        rate_of(loop.name, loop.isa, loop.operations_per_round * static_cast<double>(rounds) * threads.size(), repeats,
                [&] { threads.run([&](int) { seen.fetch_xor(loop.run(rounds), std::memory_order_relaxed); }); }));
  }
  return rates;
}

Json to_json(const std::vector<Rate>& rates) {
  Json json = Json::object();
  for (const Rate& rate : rates) json[rate.name] = {{"best", rate.best}, {"median", rate.median}};
  return json;
}

}  // namespace scalebits
