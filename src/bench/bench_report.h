// From seconds to what is compared: bandwidths, shares of what the machine can do, ratios between our own times.
#pragma once

#include "bench/machine_rates.h"
#include "bench/model_bench.h"
#include "bench/product_bench.h"
#include "core/json.h"

#include <cstdint>
#include <string>
#include <vector>

namespace scalebits {

/// One shape on one kind of pages.
struct ProductGroup {
  std::int64_t rows = 0, cols = 0;
  WeightPool::Pages pages = WeightPool::Pages::ordinary;
  std::vector<ProductCase> cases;
  std::vector<ProductTimes> times;
};

struct ProductRow {
  std::string shape, pages, name, kernel;
  std::int64_t batch = 0;
  double bits_per_weight = 0, megabytes = 0;
  double microseconds = 0, best_microseconds = 0;  // median and least
  double gigabytes_per_second = 0;
  double over_read = 0;       // time ÷ median time of a plain read of as many bytes beside it
  double roofline_share = 0;  // time of the bytes at the best bandwidth of the run ÷ time
  double gigaflops = 0;       // a multiplication and an addition for each weight and row of activations
  double peak_share = 0;      // of the machine's 8-bit operations with the kernel's instruction set
};

std::vector<ProductRow> product_rows(const ProductGroup& group, const MachineRates& machine);

struct RatioRow {
  std::string shape, pages, what;
  double value = 0;
};

/// Medians of the ratios round by round: 2 bits over 4 bits, mixed over the share-weighted mean of its uniform widths,
/// with orders over without, and a batch over a single row. Those whose cases were measured.
std::vector<RatioRow> product_ratios(const ProductGroup& group);

struct ModelRow {
  std::string work;
  std::int64_t tokens = 0, context = 0, batch = 1;
  double seconds = 0, tokens_per_second = 0;
  double roofline_share = 0;  // decoding: weights read at the best bandwidth of the run; 0: says nothing
  Profile profile;
};

std::vector<ModelRow> model_rows(const ModelBenchResult& result, const MachineRates& machine);

Json to_json(const ProductRow& row);
Json to_json(const RatioRow& row);
Json to_json(const ModelRow& row);

}  // namespace scalebits
