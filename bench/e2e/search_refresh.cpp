// One gradient refresh of a search on a device, with a random Llama: forward and backward at rounded weights, and every
// block of every linear layer scored at nine widths (issue 6: 8 B, 32 windows of 2048 tokens, within 30 s and 24 GB,
// and within 8 GB offloaded).
//   bench_search_refresh OUT.json DEVICE [8b|1b|tiny] [windows=32] [length=2048] [compute=bf16] [memory=BYTES]
//   [offload]
// DEVICE: cuda, or cpu-tensors, the card's path on this processor.
#include "random_decoder.h"

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
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
#include <fstream>
#include <string>

using namespace scalebits;
using namespace scalebits::random_decoder;

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 3) fail(ErrorKind::usage, "usage: bench_search_refresh OUT.json DEVICE [OPTION=VALUE…]");
  auto given = options_of(argc, argv, {{"size", "8b"}, {"windows", "32"}, {"length", "2048"}, {"compute", "bf16"}});
  const std::string where = argv[2];
  if (where != "cuda" && where != "cpu-tensors") fail(ErrorKind::usage, "unknown device '{}'", where);
  if (where == "cuda") load_cuda();
  const at::Device device = where == "cuda" ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
  const bool offload = given.contains("offload");
  const Compute compute = given["compute"] == "f32" ? Compute::f32 : Compute::bf16;
  const at::ScalarType operand = compute == Compute::f32 ? at::kFloat : at::kBFloat16;
  const std::int64_t windows = std::stol(given["windows"]), length = std::stol(given["length"]);

  const ModelSpec spec = spec_of(given["size"]);
  const Checkpoint checkpoint = checkpoint_of(spec);
  const auto [matrices, plan] = rounded(checkpoint);
  const at::Tensor ids = ids_of(spec, windows, length);

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
