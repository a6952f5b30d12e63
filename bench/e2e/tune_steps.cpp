// The final rounding's passes on a device, with a random Llama: some layers rounded with feedback, then steps of
// tuning, twice, which must go the same way. What is measured is the host's part, too: factors of the moments, and
// levels that are made into weights and moved.
//   bench_tune_steps OUT.json DEVICE [8b|1b|tiny] [windows=2] [length=512] [steps=3] [feedback_windows=16] [layers=2]
//   [compute=bf16] [memory=BYTES] [offload]
// DEVICE: cuda, cpu-tensors (the card's path on this processor), or cpu.
#include "random_decoder.h"

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/units.h"
#include "graph/compute_device.h"
#include "graph/cuda_device.h"
#include "graph/device_weights.h"
#include "graph/tensor_arithmetic.h"
#include "refine/tune.h"
#include "sensitivity/device_memory.h"

#include <fmt/format.h>

#include <fstream>
#include <string>

using namespace scalebits;
using namespace scalebits::random_decoder;

namespace {

struct EnoughLayers {};

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 3) fail(ErrorKind::usage, "usage: bench_tune_steps OUT.json DEVICE [OPTION=VALUE…]");
  auto given = options_of(argc, argv,
                          {{"size", "8b"},
                           {"windows", "2"},
                           {"length", "512"},
                           {"steps", "3"},
                           {"feedback_windows", "16"},
                           {"layers", "2"},
                           {"compute", "bf16"}});
  const ComputeDevice kind = compute_device_from_name(argv[2]);
  open_compute_device(kind);
  const at::Device device = numbered_device(kind, 0);
  const bool offload = given.contains("offload");
  const Compute compute = given["compute"] == "f32" ? Compute::f32 : Compute::bf16;
  const std::int64_t windows = std::stol(given["windows"]), length = std::stol(given["length"]);

  const ModelSpec spec = spec_of(given["size"]);
  const Checkpoint checkpoint = checkpoint_of(spec);
  const auto [matrices, plan] = rounded(checkpoint);

  DecoderOptions decoder{.compute = compute};
  std::unique_ptr<WeightSource> exact;
  if (kind == ComputeDevice::cpu) {
    exact = std::make_unique<CheckpointWeights>(checkpoint);
  } else {
    const DeviceMemoryNeed need{.compute = compute, .keep_weights = !offload, .reference = true, .decoders = 2};
    const std::uint64_t memory = given.contains("memory") ? parse_bytes(given["memory"]) : free_device_bytes(device);
    decoder = {compute, activation_bytes_within(memory, spec, need, length), tensor_place(device)};
    exact = std::make_unique<DeviceWeights>(checkpoint, device, compute == Compute::f32 ? at::kFloat : at::kBFloat16,
                                            !offload);
    fmt::print("{} for each decoder's activations, beside {}\n", format_bytes(decoder.activation_budget_bytes),
               device_memory(spec, need).text());
  }

  Json feedback = Json::array();
  take_peak_device_bytes(device);
  auto start = std::chrono::steady_clock::now();
  const std::int64_t enough = std::stol(given["layers"]);
  try {
    round_with_feedback(checkpoint, *exact, matrices, plan, ids_of(spec, std::stol(given["feedback_windows"]), length),
                        {.decoder = decoder}, [&](std::int64_t layer) {
                          if (layer > 0) feedback.push_back(seconds_since(start));
                          if (layer == enough) throw EnoughLayers();
                          start = std::chrono::steady_clock::now();
                        });
  } catch (const EnoughLayers&) {
  }
  const std::uint64_t feedback_peak = take_peak_device_bytes(device);
  fmt::print("seconds a layer with feedback: {}; torch's peak {}\n", feedback.dump(), format_bytes(feedback_peak));

  Json runs = Json::array();
  for (int run = 0; run < 2; ++run) {
    CodeTuner tuner(checkpoint, *exact, matrices, plan, PackedBlobs(matrices.size()), ids_of(spec, 2 * windows, length),
                    {.steps = std::stoi(given["steps"]),
                     .windows_per_step = static_cast<int>(windows),
                     .rate = 0.3,  // changes codes in the first step
                     .decoder = decoder});
    Json steps = Json::array();
    while (tuner.steps_done() < tuner.steps()) {
      start = std::chrono::steady_clock::now();
      const double divergence = tuner.step();
      steps.push_back({{"seconds", seconds_since(start)}, {"divergence", divergence}});
      fmt::print("step {}: {:.2f} s, KL {:.6f}\n", tuner.steps_done(), seconds_since(start), divergence);
    }
    runs.push_back({{"steps", steps}, {"peak_bytes", take_peak_device_bytes(device)}});
  }
  bool repeats = true;
  for (std::size_t i = 0; i < runs[0]["steps"].size(); ++i)
    repeats = repeats && runs[0]["steps"][i]["divergence"] == runs[1]["steps"][i]["divergence"];
  fmt::print("the same divergences twice: {}\n", repeats ? "yes" : "NO");
  std::ofstream(argv[1]) << Json{{"device", argv[2]},
                                 {"model", given["size"]},
                                 {"windows", windows},
                                 {"length", length},
                                 {"compute", given["compute"]},
                                 {"offload", offload},
                                 {"threads", thread_count()},
                                 {"feedback_windows", std::stol(given["feedback_windows"])},
                                 {"feedback_layer_seconds", feedback},
                                 {"feedback_peak_bytes", feedback_peak},
                                 {"same_bits_twice", repeats},
                                 {"runs", runs}}
                                .dump(1)
                         << "\n";
  return repeats ? 0 : 1;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_tune_steps: {}\n", error.what());
  return 1;
}
