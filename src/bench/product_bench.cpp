#include "bench/product_bench.h"

#include "core/error.h"
#include "core/random.h"

#include <chrono>

namespace scalebits {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

struct ProductBench::Placed {
  std::vector<std::uint32_t> row_order, input_order;
  Linear linear{"", DenseWeights{}};
  std::span<const std::byte> read;  // as many bytes, elsewhere
};

std::vector<ProductCase> all_product_cases() {
  std::vector<ProductCase> cases;
  for (int width = 1; width <= kMaxWidth; ++width)
    cases.push_back({fmt::format("uniform {}", width), WidthMix::uniform(width)});
  const WidthMix mixed = WidthMix::parse("2:0.66,3:0.22,4:0.11,8:0.01");
  cases.push_back({"mixed 2/3/4/8", mixed});
  cases.push_back({"mixed 2/3/4/8, no orders", mixed, false});
  cases.push_back({"mixed 1-8", WidthMix::parse("1:0.125,2:0.125,3:0.125,4:0.125,5:0.125,6:0.125,7:0.125,8:0.125")});
  return cases;
}

std::vector<ProductCase> few_product_cases() {
  std::vector<ProductCase> few;
  for (const ProductCase& one : all_product_cases())
    for (const char* name :
         {"uniform 2", "uniform 3", "uniform 4", "uniform 8", "mixed 2/3/4/8", "mixed 2/3/4/8, no orders"})
      if (one.name == name) few.push_back(one);
  return few;
}

ProductBench::ProductBench(const ProductSetting& setting, std::vector<ProductCase> cases, WeightPool& pool,
                           ThreadPool& threads)
    : setting_(setting), cases_(std::move(cases)), pool_(pool) {
  const MatrixFormat format{.rows = setting.rows,
                            .cols = setting.cols,
                            .block_rows = setting.block_rows,
                            .block_cols = setting.block_cols,
                            .group_cols = setting.group_cols,
                            .side = random_side_format(setting.cols)};
  validate(format, "bench");
  const std::span<std::byte> bytes = pool.bytes();
  std::size_t at = 0, in_round = 0;
  const auto take = [&](std::size_t size) {
    if (at + size > bytes.size()) at = 0;
    const auto taken = bytes.subspan(at, size);
    at += size;
    return taken;
  };
  std::uint64_t stream = 0;
  for (int round = 0; round < setting.rounds; ++round) {
    auto& in_this = placed_.emplace_back();
    for (const ProductCase& one : cases_) {
      auto placed = std::make_unique<Placed>();
      const std::vector<std::uint8_t> widths = random_widths(format, one.widths, setting.seed, stream++);
      const auto size = static_cast<std::size_t>(packed_bytes(format, widths));
      in_round += round == 0 ? 2 * size : 0;
      if (2 * size > bytes.size())
        fail(ErrorKind::usage, "a matrix of {} bytes needs a pool of more than twice as many, not {}", size,
             bytes.size());
      const std::span<std::byte> blob = take(size);
      encode_tags(format, widths, blob.first(format.tag_bytes()));
      if (one.orders) {
        placed->row_order = random_order(format.rows, setting.seed, stream++);
        placed->input_order = random_order(format.cols, setting.seed, stream++);
      }
      placed->linear = {
          .name = one.name,
          .weights = PackedWeights(PackedMatrix(format, blob, "bench"), placed->row_order, placed->input_order)};
      placed->read = take(size);
      in_this.push_back(std::move(placed));
    }
  }
  if (in_round > bytes.size())
    fail(ErrorKind::usage, "the benchmark's cases read {} bytes in one round, more than its pool of {}", in_round,
         bytes.size());
  pool.settle(threads);
}

ProductBench::~ProductBench() = default;

std::vector<ProductTimes> ProductBench::run(LinearRunner& runner, Isa isa, std::int64_t batch, int rounds) {
  SCALEBITS_ASSERT(rounds >= 1 && rounds <= setting_.rounds);
  const CounterRng random(setting_.seed);
  std::vector<float> x(static_cast<std::size_t>(batch * setting_.cols)),
      y(static_cast<std::size_t>(batch * setting_.rows));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(2 * random.uniform(i) - 1);
  const double weights = static_cast<double>(setting_.rows) * static_cast<double>(setting_.cols);
  std::vector<ProductTimes> times;
  for (const ProductCase& one : cases_) {
    ProductTimes& row = times.emplace_back();
    row.name = one.name;
    row.kernel = &runner.kernels().packed(runner.format(), batch);
    row.batch = batch;
  }
  std::uint64_t seen = 0;
  for (int round = -1; round < rounds; ++round) {  // the first only makes room for activations and wakes the threads
    const auto& in_this = placed_[static_cast<std::size_t>(round < 0 ? setting_.rounds - 1 : round)];
    for (std::size_t i = 0; i < in_this.size(); ++i) {
      const LinearOutput output{&in_this[i]->linear, y.data(), setting_.rows};
      const auto start = Clock::now();
      runner.run({&output, 1}, x.data(), batch, setting_.cols);
      const double product = seconds_since(start);
      const auto start_reading = Clock::now();
      seen |= read_all(runner.threads(), isa, in_this[i]->read);
      const double read = seconds_since(start_reading);
      if (round < 0) continue;
      times[i].product.push_back(product);
      times[i].read.push_back(read);
      times[i].bytes += static_cast<double>(in_this[i]->linear.bytes()) / rounds;
    }
  }
  if (seen == 0) throw InternalError("bench: the pool holds nothing but zeros");
  for (ProductTimes& row : times) row.bits_per_weight = 8 * row.bytes / weights;
  return times;
}

}  // namespace scalebits
