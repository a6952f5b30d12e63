// What a search step costs beside the least it could: the machine's f32 matmul rate, a bare forward + backward of the
// full-precision model (every weight gradient made and dropped), and the same pass at a quantised plan with all blocks
// scored. Medians of alternating runs; peak memory of the process.
//   bench_search_step MODEL WINDOWS LENGTH REPEATS [bf16]
#include "checkpoint/read_checkpoint.h"
#include "core/parallel.h"
#include "core/random.h"
#include "graph/decoder.h"
#include "graph/layer.h"
#include "pipeline/search.h"
#include "sensitivity/block_scores.h"
#include "sensitivity/search_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>

using namespace scalebits;

namespace {

class BarePass : public PassObserver {};

/// Two models behind one decoder, so that both passes work in the same memory, touched before they are timed.
class EitherModel : public WeightSource {
 public:
  WeightSource* chosen = nullptr;
  at::Tensor linear(std::int64_t layer, LinearKind kind) override { return chosen->linear(layer, kind); }
  at::Tensor embedding() override { return chosen->embedding(); }
  at::Tensor head() override { return chosen->head(); }
  at::Tensor vector(const std::string& name) override { return chosen->vector(name); }
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Peak resident memory and its anonymous part, from /proc/self/status.
std::string memory_line(const char* key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return line;
  return key;
}

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 5) fail(ErrorKind::usage, "usage: bench_search_step MODEL WINDOWS LENGTH REPEATS [bf16]");
  const Checkpoint checkpoint = read_checkpoint(argv[1]);
  const std::int64_t count = std::stol(argv[2]), length = std::stol(argv[3]);
  const int repeats = std::stoi(argv[4]);
  const DecoderOptions options{.compute = argc > 5 ? Compute::bf16 : Compute::f32};
  const ModelSpec& spec = checkpoint.spec;
  at::Tensor ids = at::empty({count, length}, at::kLong);
  const CounterRng rng(1);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(spec.vocab)));

  const Partition partition = identity_partition(spec, false);
  RoundedMatrices matrices;
  BitPlan plan;
  const double rounding_seconds = seconds_of([&] {
    for (const MatrixPartition& matrix : partition.matrices) {
      matrices.push_back(std::make_unique<RoundedMatrix>(checkpoint.tensor(matrix.name), matrix, BlockShape{},
                                                         GroupOptions{}, std::span<const float>()));
      plan.widths.emplace_back(static_cast<std::size_t>(matrices.back()->format().block_count()), std::uint8_t{3});
    }
  });

  // Products with a weight: forward, input gradient, weight gradient; the head has no weight gradient here.
  double linear_weights = 0;
  for (const MatrixPartition& matrix : partition.matrices)
    linear_weights += static_cast<double>(matrix.rows * matrix.cols);
  const double head_weights = static_cast<double>(spec.vocab * spec.hidden);
  const double tokens = static_cast<double>(ids.numel());
  const double product_flops = tokens * (6 * linear_weights + 4 * head_weights);

  const at::Tensor a = at::rand({count * length, spec.hidden}), b = at::rand({spec.intermediate, spec.hidden});
  CheckpointWeights full_precision(checkpoint);
  SearchModel quantised(checkpoint, matrices);
  quantised.use(plan);
  EitherModel model;
  Decoder decoder(spec, model, options);
  BarePass dropped;
  GradientReducer scored(matrices, spec, GradientKind::tokens, [&](std::size_t m, const at::Tensor& gradient) {
    score_blocks(*matrices[m], gradient.const_data_ptr<float>(), Statistic::absolute);
  });
  std::vector<double> matmul, bare, step, forward;
  for (int repeat = -1; repeat < repeats; ++repeat) {  // the first, untimed, touches the memory
    const auto timed = [&](std::vector<double>& seconds, const std::function<void()>& work) {
      const double taken = seconds_of(work);
      if (repeat >= 0) seconds.push_back(taken);
    };
    timed(matmul, [&] {
      for (int i = 0; i < 4; ++i) at::matmul(a, b.t());
    });
    model.chosen = &full_precision;
    timed(bare, [&] { decoder.loss_and_gradients(ids, {}, dropped); });
    model.chosen = &quantised;
    timed(step, [&] { decoder.loss_and_gradients(ids, {}, scored); });
    timed(forward, [&] { decoder.loss(ids, {}); });
  }
  const double matmul_rate =
      4 * 2.0 * tokens * static_cast<double>(spec.hidden * spec.intermediate) / median(matmul) / 1e9;
  const double bare_rate = product_flops / median(bare) / 1e9;
  fmt::print("tokens {}  threads {}  compute {}\n", tokens, thread_count(), argc > 5 ? "bf16" : "f32");
  fmt::print("f32 matmul            {:8.1f} GFLOPS\n", matmul_rate);
  fmt::print("bare fwd + bwd        {:8.2f} s  {:.1f} GFLOPS of weight products, {:.2f} of the matmul rate\n",
             median(bare), bare_rate, bare_rate / matmul_rate);
  fmt::print("search step           {:8.2f} s  {:.3f} x bare\n", median(step), median(step) / median(bare));
  fmt::print("quantised forward     {:8.2f} s\n", median(forward));
  fmt::print("clip search, 8 widths {:8.2f} s\n", rounding_seconds);
  const at::ScalarType operand = options.compute == Compute::f32 ? at::kFloat : at::kBFloat16;
  std::uint64_t loaded = 0, layer_weights = 0, codes = 0;
  for (const auto& [name, tensor] : checkpoint.tensors) loaded += tensor.bytes.size();
  for (const MatrixPartition& matrix : partition.matrices)
    if (matrix.name.starts_with("model.layers.0."))
      layer_weights += static_cast<std::uint64_t>(matrix.rows * matrix.cols);
  for (const auto& matrix : matrices)
    codes += 8 * sizeof(GroupCode) * static_cast<std::uint64_t>(matrix->format().rows * matrix->groups_per_row());
  const std::uint64_t activations =
      static_cast<std::uint64_t>(ids.numel()) *
      (static_cast<std::uint64_t>(spec.layers) *
           (layer_activation_bytes(spec, operand) + 4 * static_cast<std::uint64_t>(spec.hidden)) +
       layer_temporary_bytes(spec, operand));
  const double bound = 1.2 * static_cast<double>(loaded + codes + 8 * layer_weights + activations);
  fmt::print("{}\n", memory_line("VmHWM"));
  fmt::print("1.2 x (weights as loaded + codes + a layer dequantised and its gradients + activations) = {:.0f} kB\n",
             bound / 1024);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_search_step: {}\n", error.what());
  return 1;
}
