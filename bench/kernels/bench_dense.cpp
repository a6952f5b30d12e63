// Speed of dense, exact packed and attention kernels: bench_dense [ISA] [THREADS] [gemv | gemm |
// packed | decode | prompt]. Products of one row of x read
// weights that no cache holds (rotating over 1 GB) and are set beside a plain read of the same bytes in the same run;
// products of many rows beside the f32 rate of fma in registers. The best of repeated runs, since the machine is seldom
// ours alone.
#include "core/random.h"
#include "kernels/attention.h"
#include "kernels/cpu/packed_f32.h"
#include "kernels/kernel.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <functional>
#include <immintrin.h>
#include <sys/mman.h>

namespace scalebits {
namespace {

constexpr std::int64_t kPoolBytes = std::int64_t{1} << 30;

/// One thread is timed by its own clock, which stands still while other programs have the core.
double now(bool one_thread) {
  timespec time;
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}
bool one_thread = false;

double seconds_of(const std::function<void()>& work) {
  const double start = now(one_thread);
  work();
  return now(one_thread) - start;
}

double best_seconds(int repeats, const std::function<void()>& work) {
  work();
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) times.push_back(seconds_of(work));
  return *std::min_element(times.begin(), times.end());
}

__attribute__((target("avx2"))) std::int64_t read_bytes(const std::byte* from, std::int64_t bytes) {
  __m256i sums[4] = {};
  for (std::int64_t at = 0; at + 128 <= bytes; at += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(from + at + 4096), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(from + at + 4160), _MM_HINT_T0);
    for (int i = 0; i < 4; ++i)
      sums[i] = _mm256_xor_si256(sums[i], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + 32 * i)));
  }
  return _mm256_extract_epi64(_mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3])),
                              0);
}

/// 24 independent chains; f32 operations done.
__attribute__((target("avx512f"))) double fma_avx512(float* sink) {
  __m512 sums[24];
  for (int i = 0; i < 24; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (int repeat = 0; repeat < 1'000'000; ++repeat)
#pragma GCC unroll 24
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, a, b);
  for (__m512& sum : sums) *sink += _mm512_cvtss_f32(sum);
  return 24e6 * 32;
}
__attribute__((target("avx2,fma"))) double fma_avx2(float* sink) {
  __m256 sums[12];
  for (int i = 0; i < 12; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int repeat = 0; repeat < 1'000'000; ++repeat)
#pragma GCC unroll 12
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  for (__m256& sum : sums) *sink += _mm256_cvtss_f32(sum);
  return 12e6 * 16;
}

struct Bench {
  ThreadPool& threads;
  Isa isa;
  std::byte* pool;  // kPoolBytes: f16 or bf16 numbers below 1, random
  double read_rate = 0, fma_rate = 0;

  double read_seconds(const std::byte* from, std::int64_t bytes) const {
    std::atomic<std::int64_t> sink = 0;
    const std::int64_t chunk = 1 << 20;
    return seconds_of([&] {
      threads.for_each((bytes + chunk - 1) / chunk, [&](std::int64_t i) {
        sink += read_bytes(from + i * chunk, std::min(chunk, bytes - i * chunk));
      });
    });
  }

  void machine() {
    std::vector<double> times;
    for (int i = 0; i < 7; ++i) times.push_back(read_seconds(pool, kPoolBytes));
    read_rate = double(kPoolBytes) / *std::min_element(times.begin(), times.end());
    std::vector<float> sinks(static_cast<std::size_t>(threads.size()) * 16);
    double operations = 0;
    const auto loop = isa >= Isa::avx512_vnni ? &fma_avx512 : &fma_avx2;
    const double seconds = best_seconds(9, [&] {
      threads.run([&](int thread) {
        const double done = loop(&sinks[static_cast<std::size_t>(thread) * 16]);
        if (thread == 0) operations = done;
      });
    });
    fma_rate = operations * threads.size() / seconds;
    fmt::print("{} threads, {}: read {:.1f} GB/s, fma in registers {:.0f} GFLOPS\n", threads.size(), name_of(isa),
               read_rate * 1e-9, fma_rate * 1e-9);
  }

  void dense(DType dtype, std::int64_t rows, std::int64_t cols, std::int64_t n) const {
    const DenseKernel& kernel = *KernelChoice(isa).dense;
    const std::int64_t bytes = rows * cols * std::int64_t(size_bytes(dtype)),
                       copies = std::max<std::int64_t>(1, kPoolBytes / bytes);
    std::vector<float> x(static_cast<std::size_t>(n * cols), 0.5f), y(static_cast<std::size_t>(n * rows));
    const std::int64_t chunk = (rows + threads.size() - 1) / threads.size();  // as LinearRunner shares it out
    std::int64_t turn = 0;
    const auto next = [&] { return pool + (turn++ % copies) * bytes; };
    const double seconds = best_seconds(n > 16 ? 15 : int(std::clamp<std::int64_t>(2 * copies, 9, 301)), [&] {
      const DenseWeights weights{dtype, rows, cols, {next(), static_cast<std::size_t>(bytes)}};
      threads.for_each((rows + chunk - 1) / chunk, [&](std::int64_t i) {
        kernel.run({&weights, x.data(), n, cols, i * chunk, std::min(rows, (i + 1) * chunk), y.data(), rows});
      });
    });
    std::vector<double> reads;
    for (std::int64_t i = 0; i < std::max<std::int64_t>(9, copies); ++i) reads.push_back(read_seconds(next(), bytes));
    const double rate = 2.0 * double(rows) * double(cols) * double(n) / seconds;
    fmt::print(
        "dense {:4} {:5}x{:<5} n={:<4} {:9.1f} us  {:5.1f} GB/s ({:.2f} of a plain read)  {:6.1f} GFLOPS ({:.0f}%)\n",
        name_of(dtype), rows, cols, n, seconds * 1e6, double(bytes) / seconds * 1e-9,
        seconds / *std::min_element(reads.begin(), reads.end()), rate * 1e-9, 100 * rate / fma_rate);
  }

  void packed_f32(int width, std::int64_t rows, std::int64_t cols, std::int64_t n) const {
    const MatrixFormat format{.rows = rows, .cols = cols, .side = {.scale_base = 0.01f, .scale_step_log2 = 0.03f}};
    const std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()),
                                           static_cast<std::uint8_t>(width));
    std::vector<std::byte> blob(packed_bytes(format, widths));
    std::memcpy(blob.data(), pool, blob.size());
    encode_tags(format, widths, std::span(blob).first(format.tag_bytes()));
    const PackedWeights weights(PackedMatrix(format, blob, "bench"), {}, {});
    Activations x;
    x.format = ActivationFormat::f32;
    x.rows = n;
    x.cols = cols;
    x.f32.reserve(static_cast<std::size_t>(n * cols));
    std::fill_n(x.f32.data(), n * cols, 0.5f);
    std::vector<float> y(static_cast<std::size_t>(n * rows));
    const auto run = isa >= Isa::avx512_vnni ? &run_packed_f32_avx512
                     : isa >= Isa::avx2      ? &run_packed_f32_avx2
                                             : &run_packed_f32_scalar;
    const std::int64_t chunk = (format.tile_row_count() + threads.size() - 1) / threads.size();
    const double seconds = best_seconds(n > 16 ? 15 : 21, [&] {
      threads.for_each((format.tile_row_count() + chunk - 1) / chunk, [&](std::int64_t i) {
        run({&weights, &x, i * chunk, std::min(format.tile_row_count(), (i + 1) * chunk), y.data(), rows});
      });
    });
    const double rate = 2.0 * double(rows) * double(cols) * double(n) / seconds;
    fmt::print("packed f32 {} bits {:5}x{:<5} n={:<4} {:9.1f} us  {:6.1f} GFLOPS ({:.0f}%)\n", width, rows, cols, n,
               seconds * 1e6, rate * 1e-9, 100 * rate / fma_rate);
  }

  /// n queries at the end of `context` positions, over as many layers as make 1 GB (one query) or 2 (a chunk).
  void attention(KvType type, std::int64_t heads, std::int64_t kv_heads, std::int64_t dim, std::int64_t context,
                 std::int64_t n) const {
    std::vector<KvLayer> layers;
    const double bytes = double(kv_heads * context * 2) * (type == KvType::f16 ? 2.0 * double(dim) : double(dim) + 4);
    const auto count = n > 1 ? 2 : std::clamp<std::int64_t>(std::int64_t(5e8 / bytes), 2, 2000);
    const CounterRng rng(1);
    std::vector<float> row(static_cast<std::size_t>(kv_heads * dim));
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = float(rng.below(i, 1000)) * 0.002f - 1;
    for (std::int64_t i = 0; i < count; ++i) {
      layers.emplace_back(type, kv_heads, context, dim);
      for (std::int64_t p = 0; p < context; ++p) layers.back().store(p, row.data(), row.data());
    }
    std::vector<float> q(static_cast<std::size_t>(n * heads * dim), 0.1f), out(q.size());
    std::size_t turn = 0;
    const double seconds = best_seconds(n > 1 ? 9 : int(std::max<std::int64_t>(2 * count, 11)), [&] {
      std::vector<AttentionQuery> queries;
      const KvLayer& layer = layers[turn++ % layers.size()];
      for (std::int64_t i = 0; i < n; ++i)
        queries.push_back({&layer, q.data() + i * heads * dim, out.data() + i * heads * dim, 0, context - n + i + 1});
      attend(threads, isa, heads, queries);
    });
    const double positions = double(n) * (double(context) - double(n - 1) / 2);
    const double rate = 4.0 * double(heads * dim) * positions / seconds;
    fmt::print(
        "attention {} heads {}/{} x {:<3} context {:<6} n={:<4} {:9.1f} us  {:5.1f} GB/s ({:.2f} of read)  {:6.1f} "
        "GFLOPS ({:.0f}%)\n",
        type == KvType::f16 ? "f16" : "i8 ", heads, kv_heads, dim, context, n, seconds * 1e6, bytes / seconds * 1e-9,
        bytes / seconds / read_rate, rate * 1e-9, 100 * rate / fma_rate);
  }
};

int run(int argc, char** argv) {
  ThreadPool threads(argc > 2 ? std::atoi(argv[2]) : 0);
  one_thread = threads.size() == 1;
  const Isa isa = highest_isa(argc > 1 ? std::optional(isa_from_name(argv[1])) : std::nullopt);
  const std::string only = argc > 3 ? argv[3] : "";
  const auto wanted = [&](const char* part) { return only.empty() || only == part; };
  void* pages = ::mmap(nullptr, kPoolBytes + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  SCALEBITS_ASSERT(pages != MAP_FAILED);
  Bench bench{threads, isa, static_cast<std::byte*>(pages)};
  const CounterRng rng(7);
  for (std::int64_t i = 0; i < (1 << 17); ++i) {  // halves are normal numbers below 2 in f16, bf16 and f32
    const std::uint64_t bits = (rng.bits(static_cast<std::uint64_t>(i)) & 0x3bff3bff3bff3bffu) | 0x2000200020002000u;
    std::memcpy(bench.pool + i * 8, &bits, 8);
  }
  for (std::int64_t at = 1 << 20; at < kPoolBytes; at += 1 << 20) std::memcpy(bench.pool + at, bench.pool, 1 << 20);
  bench.machine();
  if (wanted("gemv")) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      bench.dense(dtype, 49152, 576, 1);
      bench.dense(dtype, 4096, 14336, 1);
      bench.dense(dtype, 14336, 4096, 1);
    }
    for (const std::int64_t n : {2, 4, 6, 8, 16}) bench.dense(DType::bf16, 4096, 14336, n);
  }
  if (wanted("gemm"))
    for (const DType dtype : {DType::f32, DType::bf16}) {
      bench.dense(dtype, 576, 576, 512);
      bench.dense(dtype, 1536, 576, 512);
      bench.dense(dtype, 576, 1536, 512);
      bench.dense(dtype, 49152, 576, 128);
      bench.dense(dtype, 4096, 4096, 256);
      bench.dense(dtype, 4096, 14336, 64);
    }
  if (wanted("packed")) {
    for (const int width : {2, 3, 4, 8})
      for (const std::int64_t n : {1, 16, 512}) bench.packed_f32(width, 1536, 576, n);
    for (const std::int64_t n : {1, 4, 16, 256}) bench.packed_f32(3, 4096, 4096, n);
  }
  for (const KvType type : {KvType::f16, KvType::i8}) {
    if (wanted("decode")) {
      for (const std::int64_t context : {128, 1024, 8192, 32768}) bench.attention(type, 9, 3, 64, context, 1);
      for (const std::int64_t context : {8192, 32768}) bench.attention(type, 32, 8, 128, context, 1);
      bench.attention(type, 32, 8, 64, 8192, 1);
    }
    if (wanted("prompt")) {
      for (const std::int64_t context : {512, 8192}) bench.attention(type, 9, 3, 64, context, 512);
      bench.attention(type, 32, 8, 128, 8192, 256);
    }
  }
  return 0;
}

}  // namespace
}  // namespace scalebits

int main(int argc, char** argv) {
  try {
    return scalebits::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_dense: {}\n", error.what());
    return 1;
  }
}
