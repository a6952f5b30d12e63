// What this machine can do at most, measured: bytes read per second, 8-bit operations per second.
#pragma once

#include "bench/weight_pool.h"
#include "core/json.h"
#include "kernels/isa.h"

#include <string>
#include <vector>

namespace scalebits {

/// Of several measurements, per second.
struct Rate {
  std::string name;
  Isa isa = Isa::scalar;
  double best = 0;
  double median = 0;
};

/// Throws InternalError when there are none.
double median(std::vector<double> values);

struct MachineRates {
  std::vector<Rate> reading;     // bytes of the whole pool, all threads; one for each read loop up to `highest`
  std::vector<Rate> operations;  // additions and multiplications of 8-bit integers, all threads

  double best_reading() const;
  /// Of the best loop that a kernel of this set could use; 0: none was measured.
  double best_operations(Isa isa) const;
};

/// Keeps the better of two measurements of the same loops, rate by rate.
MachineRates better_of(MachineRates one, const MachineRates& other);

MachineRates measure_machine(ThreadPool& threads, Isa highest, WeightPool& pool, int repeats);
Json to_json(const std::vector<Rate>& rates);

}  // namespace scalebits
