// Products on a card beside cuBLAS in f16, in one run: cuda_products gemv|batch|prompt OUT.json [--quick].
// Every time is the median of graph replays; a graph runs the product once on each of as many copies of the matrix as
// fill more than four times the second cache, with random weights, widths, row orders and input orders. "product": the
// one launch, for one token the kernel of decoding, which gathers; "with_inputs": with a launch that gathers and rounds
// the inputs, once a matrix. Bytes: of the records and widths read.
#include "tests/kernels/cuda_random.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

namespace scalebits::cuda {
namespace {

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "cuda_products: %s failed: %s\n", what, cudaGetErrorString(cudaGetLastError()));
  std::exit(1);
}

struct Mix {
  const char* name;
  std::vector<int> widths, shares;  // drawn for each block; shares in percent
};

struct Time {
  double median_us = 0, fastest_us = 0;
};

struct Bench {
  Engine engine;
  Draw draw{11};
  bool quick;
  cublasHandle_t blas = nullptr;
  CardBuffer blas_scratch{64 << 20};
  std::string json, separator;

  explicit Bench(bool quick_run) : quick(quick_run) {
    require(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS, "cublasCreate");
    cublasSetStream(blas, stream());
    cublasSetWorkspace(blas, blas_scratch.data(), blas_scratch.bytes());
  }
  ~Bench() { cublasDestroy(blas); }
  cudaStream_t stream() const { return static_cast<cudaStream_t>(engine.stream()); }

  /// Of one of the `count` calls that `body` makes, each on another copy.
  Time time(int count, const std::function<void(int)>& body) {
    for (int i = 0; i < count; ++i) body(i);  // also makes room for scratch, which a capture may not
    engine.wait();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    require(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    for (int i = 0; i < count; ++i) body(i);
    require(cudaStreamEndCapture(stream(), &graph) == cudaSuccess, "capture");
    require(cudaGraphInstantiate(&replay, graph, 0) == cudaSuccess, "graph");
    cudaEvent_t begin = nullptr, end = nullptr;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    std::vector<double> samples;
    for (int i = 0; i < (quick ? 8 : 33); ++i) {
      cudaEventRecord(begin, stream());
      require(cudaGraphLaunch(replay, stream()) == cudaSuccess, "replay");
      cudaEventRecord(end, stream());
      require(cudaEventSynchronize(end) == cudaSuccess, "replay");
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, begin, end);
      if (i >= 3) samples.push_back(milliseconds * 1e3 / count);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
    std::sort(samples.begin(), samples.end());
    return {samples[samples.size() / 2], samples[0]};
  }

  int copies_for(std::uint64_t bytes) const { return static_cast<int>(4 * engine.card().cache_bytes / bytes) + 2; }

  CardBuffer random_halves(std::int64_t count) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
    for (std::uint16_t& value : values)  // ± 0.25 to 1: what zeros or subnormals cost is nobody's question
      value = static_cast<std::uint16_t>((draw.next() & 0x83ff) | (14 - draw.next() % 2) << 10);
    CardBuffer buffer(values.size() * 2);
    engine.upload(buffer, values.data(), buffer.bytes());
    return buffer;
  }

  void line(const std::string& fields) {
    json += separator + "\n    {" + fields + "}";
    separator = ",";
    std::printf("%s\n", fields.c_str());
    std::fflush(stdout);
  }
  static std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", value);
    return text;
  }

  Time blas_product(std::int64_t rows, std::int64_t cols, int tokens) {
    const int copies = copies_for(static_cast<std::uint64_t>(rows * cols * 2));
    std::vector<CardBuffer> weights;
    weights.push_back(random_halves(rows * cols));
    for (int i = 1; i < copies; ++i) {
      weights.emplace_back(weights[0].bytes());
      cudaMemcpy(weights.back().data(), weights[0].data(), weights[0].bytes(), cudaMemcpyDeviceToDevice);
    }
    const CardBuffer x = random_halves(tokens * cols), y(static_cast<std::uint64_t>(tokens * rows) * 2);
    const float one = 1, zero = 0;
    return time(copies, [&](int i) {
      require(cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(rows), tokens, static_cast<int>(cols), &one,
                           weights[static_cast<std::size_t>(i)].data(), CUDA_R_16F, static_cast<int>(cols), x.data(),
                           CUDA_R_16F, static_cast<int>(cols), &zero, y.data(), CUDA_R_16F, static_cast<int>(rows),
                           CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS,
              "cublasGemmEx");
    });
  }

  void product(std::int64_t rows, std::int64_t cols, int tokens, const Mix& mix, double blas_us) {
    const StoredShape shape = usual_shape(rows, cols);
    std::vector<std::uint8_t> widths(block_count(shape));
    for (std::uint8_t& width : widths) {
      std::int64_t at = draw.below(100);
      std::size_t i = 0;
      while (at >= mix.shares[i]) at -= mix.shares[i++];
      width = static_cast<std::uint8_t>(mix.widths[i]);
    }
    const OwnedMatrix matrix = random_matrix(draw, shape, std::move(widths), true, true);
    const StoredMatrix view = matrix.view();
    std::vector<CardMatrices> copies;
    copies.emplace_back(engine, std::span(&view, 1));
    const std::uint64_t bytes = copies[0].bytes();
    for (int i = copies_for(bytes); i > 1; --i) copies.emplace_back(engine, std::span(&view, 1));
    const CardBuffer x = random_halves(tokens * cols), y(static_cast<std::uint64_t>(tokens * rows) * 2);
    const CardInput input{.x = x.data(), .x_stride = cols, .type = ElementType::f16, .tokens = tokens};
    const CardOutput output{y.data(), rows};
    const int count = static_cast<int>(copies.size());
    const auto multiply = [&](int i) {
      const CardMatrices& matrices = copies[static_cast<std::size_t>(i)];
      if (tokens == 1)
        engine.product(input, matrices, std::span(&output, 1), ElementType::f16);
      else
        engine.multiply(matrices, std::span(&output, 1), ElementType::f16);
    };
    engine.prepare(input, copies[0]);
    const Time alone = time(count, multiply), with_inputs = time(count, [&](int i) {
                                                if (tokens > 1)
                                                  engine.prepare(input, copies[static_cast<std::size_t>(i)]);
                                                multiply(i);
                                              });
    const char* const kernel = tokens == 1 ? "one token" : engine.kernel_for(copies[0], tokens).name;
    line("\"kernel\": \"" + std::string(kernel) + "\", \"rows\": " + std::to_string(rows) +
         ", \"cols\": " + std::to_string(cols) + ", \"tokens\": " + std::to_string(tokens) + ", \"widths\": \"" +
         mix.name + "\", \"bytes\": " + std::to_string(bytes) + ", \"copies\": " + std::to_string(count) +
         ", \"product_us\": " + number(alone.median_us) + ", \"fastest_us\": " + number(alone.fastest_us) +
         ", \"with_inputs_us\": " + number(with_inputs.median_us) +
         ", \"gb_per_s\": " + number(bytes / alone.median_us * 1e-3) + ", \"cublas_f16_us\": " + number(blas_us));
  }

  /// Bytes read and written by a copy within the card's memory, GB/s: what memory gives.
  double copy_gb_per_s() {
    const std::uint64_t bytes = std::uint64_t{1} << 30;
    const CardBuffer from(bytes), to(bytes);
    const Time copy =
        time(2, [&](int) { cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream()); });
    return 2e-3 * static_cast<double>(bytes) / copy.median_us;
  }

  void prompts(std::int64_t rows, std::int64_t cols, std::initializer_list<const Mix*> mixes) {
    for (const int tokens : {64, 256, 2048}) {
      const double blas_us = blas_product(rows, cols, tokens).median_us;
      for (const Mix* mix : mixes) product(rows, cols, tokens, *mix, blas_us);
    }
  }

  void run(const std::string& what) {
    std::vector<Mix> uniform;
    static const char* const kNames[] = {"1", "2", "3", "4", "5", "6", "7", "8"};
    for (int width = 1; width <= 8; ++width) uniform.push_back({kNames[width - 1], {width}, {100}});
    const Mix mixed{"mixed 2.5: 20% 1, 30% 2, 30% 3, 20% 4", {1, 2, 3, 4}, {20, 30, 30, 20}},
        wide{"40% 2, 40% 4, 20% 8", {2, 4, 8}, {40, 40, 20}};
    const std::pair<std::int64_t, std::int64_t> shapes[] = {{8192, 8192}, {4096, 14336}, {14336, 4096}};
    for (const auto& [rows, cols] : shapes) {
      if (what == "gemv") {
        const double blas_us = blas_product(rows, cols, 1).median_us;
        for (const Mix& mix : uniform) product(rows, cols, 1, mix, blas_us);
        product(rows, cols, 1, mixed, blas_us);
      }
      if (what == "batch")
        for (const int tokens : {2, 8, 16, 32}) {
          if (tokens != 16 && rows != 8192) continue;
          const double blas_us = blas_product(rows, cols, tokens).median_us;
          for (const Mix* mix : std::initializer_list<const Mix*>{&uniform[1], &uniform[3], &uniform[7], &wide, &mixed})
            product(rows, cols, tokens, *mix, blas_us);
        }
      if (what == "prompt") prompts(rows, cols, {&uniform[1], &uniform[3], &wide});
    }
    if (what != "prompt") return;
    engine.leave_own_kernels();  // what they are worth
    prompts(8192, 8192, {&uniform[3]});
  }
};

int run(const std::string& what, const char* out, bool quick) {
  Bench bench(quick);
  const Card& card = bench.engine.card();
  int bus_bits = 0, driver = 0;
  cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, 0);
  cudaDriverGetVersion(&driver);
  const double copy = bench.copy_gb_per_s();
  bench.run(what);
  std::FILE* file = std::fopen(out, "w");
  require(file != nullptr, "opening the output");
  std::fprintf(file,
               "{\n  \"card\": \"%s\", \"capability\": \"%d.%d\", \"multiprocessors\": %d, \"cache_bytes\": %llu,\n"
               "  \"clock_ghz\": %.3f, \"memory_clock_ghz\": %.3f, \"peak_gb_per_s\": %.0f, \"copy_gb_per_s\": %.0f,\n"
               "  \"driver\": %d, \"work\": \"%s\", \"quick\": %s,\n  \"products\": [%s\n  ]\n}\n",
               card.name.c_str(), card.major, card.minor, card.multiprocessors,
               static_cast<unsigned long long>(card.cache_bytes), card.clock_ghz, card.memory_clock_ghz,
               card.memory_clock_ghz * bus_bits / 4, copy, driver, what.c_str(), quick ? "true" : "false",
               bench.json.c_str());
  std::fclose(file);
  return 0;
}

}  // namespace
}  // namespace scalebits::cuda

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "";
  if (count < 3 || (what != "gemv" && what != "batch" && what != "prompt")) {
    std::fprintf(stderr, "usage: cuda_products gemv|batch|prompt OUT.json [--quick]\n");
    return 2;
  }
  try {
    return scalebits::cuda::run(what, arguments[2], count > 3 && std::strcmp(arguments[3], "--quick") == 0);
  } catch (const scalebits::cuda::CardError& error) {
    std::fprintf(stderr, "cuda_products: %s\n", error.what());
    return 5;
  }
}
