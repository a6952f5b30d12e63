// How long products take, cold: from f32 activations to f32 results through LinearRunner, on random widths and channel
// orders. Its one subtle rule is the schedule. In each round every case multiplies by one matrix of its own, and the
// same number of bytes is read plainly; all of them lie one behind the other in the pool, round the end of it, so that
// between two touches of any byte lies the whole pool, and cases are compared under the same conditions.
#pragma once

#include "bench/weight_pool.h"
#include "bench/width_mix.h"
#include "core/json.h"
#include "kernels/linear.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace scalebits {

/// Matrices of one kind that are measured beside others.
struct ProductCase {
  std::string name;
  WidthMix widths;
  bool orders = true;  // a random row and column order for each matrix
};

/// "uniform 1" … "uniform 8", "mixed 2/3/4/8", the same without orders, and another mix.
std::vector<ProductCase> all_product_cases();
/// Those of 2, 3, 4, 8 bits and the mix of them, with and without orders.
std::vector<ProductCase> few_product_cases();

struct ProductSetting {
  std::int64_t rows = 4096, cols = 14336;
  int block_rows = 16, block_cols = 64, group_cols = 64;
  int rounds = 21;
  std::uint64_t seed = 1;
};

/// Seconds of one case at one number of activation rows, round by round.
struct ProductTimes {
  std::string name;
  const PackedKernel* kernel = nullptr;
  std::int64_t batch = 0;
  double bytes = 0;            // packed, of one matrix; the mean
  double bits_per_weight = 0;  // all-in, channel orders not counted
  std::vector<double> product, read;
};

class ProductBench {
 public:
  /// Places the matrices of all cases and rounds in `pool`, which must outlive this. Throws Error(usage) when the pool
  /// is smaller than what the cases read in one round.
  ProductBench(const ProductSetting& setting, std::vector<ProductCase> cases, WeightPool& pool, ThreadPool& threads);
  ~ProductBench();

  /// All cases with x [batch, cols].
  std::vector<ProductTimes> run(LinearRunner& runner, Isa isa, std::int64_t batch, int rounds);

 private:
  struct Placed;
  ProductSetting setting_;
  std::vector<ProductCase> cases_;
  WeightPool& pool_;
  std::vector<std::vector<std::unique_ptr<Placed>>> placed_;  // [round, case]
};

}  // namespace scalebits
