// One gradient refresh of a search on a device, with a random Llama: forward and backward at rounded weights, and every
// block of every linear layer scored at nine widths (issue 6: 8 B, 32 windows of 2048 tokens, within 30 s and 24 GB,
// and within 8 GB offloaded). The weights repeat a piece of random numbers, and ranges are not searched: neither
// changes the work of a pass.
//   bench_search_refresh OUT.json DEVICE [8b|1b|tiny] [windows=32] [length=2048] [compute=bf16] [memory=BYTES]
//   [offload]
// DEVICE: cuda, or cpu-tensors, the card's path on this processor.
#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/random.h"
#include "core/units.h"
#include "graph/batch_plan.h"
#include "graph/cuda_device.h"
#include "graph/decoder.h"
#include "graph/tensor_arithmetic.h"
#include "sensitivity/device_memory.h"
#include "sensitivity/device_search_model.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <string>

using namespace scalebits;

namespace {

ModelSpec spec_of(const std::string& size) {
  ModelSpec spec;
  spec.layers = 32, spec.hidden = 4096, spec.intermediate = 14336, spec.heads = 32, spec.kv_heads = 8;
  spec.head_dim = 128, spec.vocab = 128256, spec.max_positions = 8192, spec.rope_theta = 500000;
  if (size == "1b") spec.layers = 16, spec.hidden = 2048, spec.intermediate = 8192, spec.head_dim = 64;
  if (size == "tiny")
    spec.layers = 2, spec.hidden = 256, spec.intermediate = 700, spec.heads = 8, spec.kv_heads = 2, spec.head_dim = 32,
    spec.vocab = 1000;
  if (size != "8b" && size != "1b" && size != "tiny") fail(ErrorKind::usage, "unknown size '{}'", size);
  return spec;
}

Checkpoint random_checkpoint(const ModelSpec& spec) {
  constexpr std::size_t kPiece = std::size_t{1} << 22;
  const CounterRng rng(1);
  std::vector<std::uint16_t> piece(kPiece);
  for (std::size_t i = 0; i < kPiece; ++i) piece[i] = f32_to_bf16(static_cast<float>(rng.normal(i)) * 0.02f);
  Checkpoint checkpoint;
  checkpoint.spec = spec;
  std::size_t start = 0;
  for (const TensorShape& tensor : required_tensors(spec)) {
    std::size_t count = 1;
    for (const std::int64_t extent : tensor.shape) count *= static_cast<std::size_t>(extent);
    if (tensor.shape.size() == 1) {
      checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, std::vector<float>(count, 1.0f));
      continue;
    }
    const auto values = std::make_shared<std::vector<std::uint16_t>>(count);
    start += 7919;  // no two matrices alike
    for (std::size_t i = 0; i < count; ++i) (*values)[i] = piece[(start + i) % kPiece];
    checkpoint.tensors[tensor.name] = {DType::bf16, tensor.shape, std::as_bytes(std::span(*values)), values};
  }
  return checkpoint;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 3) fail(ErrorKind::usage, "usage: bench_search_refresh OUT.json DEVICE [OPTION=VALUE…]");
  std::map<std::string, std::string> given = {
      {"size", "8b"}, {"windows", "32"}, {"length", "2048"}, {"compute", "bf16"}};
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto equals = argument.find('=');
    if (equals != std::string::npos)
      given[argument.substr(0, equals)] = argument.substr(equals + 1);
    else
      given[argument == "offload" ? "offload" : "size"] = argument;
  }
  const std::string where = argv[2];
  if (where != "cuda" && where != "cpu-tensors") fail(ErrorKind::usage, "unknown device '{}'", where);
  if (where == "cuda") load_cuda();
  const at::Device device = where == "cuda" ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const bool offload = given.contains("offload");
  const Compute compute = given["compute"] == "f32" ? Compute::f32 : Compute::bf16;
  const at::ScalarType operand = compute == Compute::f32 ? at::kFloat : at::kBFloat16;
  const std::int64_t windows = std::stol(given["windows"]), length = std::stol(given["length"]);

  const ModelSpec spec = spec_of(given["size"]);
  const Checkpoint checkpoint = random_checkpoint(spec);
  const Partition partition = identity_partition(spec, false);
  RoundedMatrices matrices;
  BitPlan plan;
  const CounterRng rng(2);
  for (const MatrixPartition& matrix : partition.matrices) {
    matrices.push_back(std::make_unique<RoundedMatrix>(checkpoint.tensor(matrix.name), matrix, BlockShape{64, 64},
                                                       GroupOptions{.clip_search = false}, std::span<const float>()));
    plan.widths.emplace_back();
    for (std::int64_t i = 0; i < matrices.back()->format().block_count(); ++i)
      plan.widths.back().push_back(static_cast<std::uint8_t>(2 + rng.below(static_cast<std::uint64_t>(i), 3)));
  }
  at::Tensor ids = at::empty({windows, length}, at::kLong);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(spec.vocab)));

  const DeviceMemoryNeed need{.compute = compute, .keep_weights = !offload};
  const std::uint64_t memory = given.contains("memory") ? parse_bytes(given["memory"])
                               : offload                ? 8'000'000'000
                                         : std::min<std::uint64_t>(24'000'000'000, free_device_bytes(device));
  const std::uint64_t left = activation_bytes_within(memory, spec, need, length);
  const BatchPlan cuts = plan_batch(spec, operand, {windows, length, true}, {left, std::uint64_t{1} << 40});
  fmt::print("{}: {} windows of {} tokens, {} at a time, {} for activations of {}; {}\n", where, windows, length,
             cuts.windows_at_once, format_bytes(left), format_bytes(memory), device_memory(spec, need).text());

  DeviceSearchModel model(checkpoint, matrices, device, operand, !offload);
  Decoder decoder(spec, model, {compute, left, tensor_place(device)});
  model.use(plan);
  Json runs = Json::array();
  std::vector<float> first_scores;
  bool repeats = true;
  for (int run = 0; run < 2; ++run) {  // the first one takes memory, and sends the weights that stay
    take_peak_device_bytes(device);
    std::vector<float> scores;
    double scoring = 0;
    GradientReducer reducer(matrices, spec, GradientKind::tokens, [&](std::size_t m, const at::Tensor& gradient) {
      const auto start = std::chrono::steady_clock::now();
      for (const WidthScores& block : model.score_blocks(m, gradient, Statistic::fisher))
        scores.insert(scores.end(), block.begin(), block.end());
      scoring += seconds_since(start);  // with what was still to be done of the gradient
    });
    const auto start = std::chrono::steady_clock::now();
    const double loss = decoder.loss_and_gradients(ids, {}, reducer).mean;
    const std::uint64_t peak = take_peak_device_bytes(device);
    runs.push_back(
        {{"seconds", seconds_since(start)}, {"seconds_scoring", scoring}, {"loss", loss}, {"peak_bytes", peak}});
    fmt::print("refresh {:.2f} s, {:.2f} s of it from gradients to scores, loss {:.6f}, torch's peak {}\n",
               seconds_since(start), scoring, loss, format_bytes(peak));
    if (run == 0)
      first_scores = scores;
    else
      repeats = scores == first_scores && runs[0]["loss"] == runs[1]["loss"];
  }
  fmt::print("the same bits twice: {}\n", repeats ? "yes" : "NO");
  std::ofstream(argv[1]) << Json{{"device", where},
                                 {"model", given["size"]},
                                 {"windows", windows},
                                 {"length", length},
                                 {"compute", given["compute"]},
                                 {"offload", offload},
                                 {"memory_bytes", memory},
                                 {"counted_bytes", device_memory(spec, need).total() + cuts.bytes},
                                 {"windows_at_once", cuts.windows_at_once},
                                 {"same_bits_twice", repeats},
                                 {"runs", runs}}
                                .dump(1)
                         << "\n";
  return repeats ? 0 : 1;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_search_refresh: {}\n", error.what());
  return 1;
}
