// Training on a device: what it computes, beside the host, and how fast. With a small model in f32: values on every
// format's grid must be the host's to the bit, gradients the host's up to what the order of sums sets off, and real FP8
// products the emulated ones. Then steps of a larger random Llama with bf16 operands, scheme by scheme, and
// its largest product with operands that are ready, in bf16 and in FP8.
//   bench_train_steps OUT.json DEVICE [1b|tiny] [windows=4] [length=2048] [steps=10]
// DEVICE: cuda, or cpu-tensors, the card's path on this processor. Exit status 1: something was not as it must be.
#include "random_decoder.h"

#include "core/error.h"
#include "core/json.h"
#include "core/parallel.h"
#include "graph/cuda_device.h"
#include "train/training_graph.h"

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
  spec.layers = 16, spec.hidden = 2048, spec.intermediate = 8192, spec.heads = 32, spec.kv_heads = 8;
  spec.head_dim = 64, spec.vocab = 32000, spec.max_positions = 8192, spec.tied_head = true;
  if (size == "tiny")
    spec.layers = 2, spec.hidden = 256, spec.intermediate = 700, spec.heads = 8, spec.kv_heads = 2, spec.head_dim = 32,
    spec.vocab = 1000;
  if (size != "1b" && size != "tiny") fail(ErrorKind::usage, "unknown size '{}'", size);
  return spec;
}

/// Seconds of one call; `wait` returns when the device has done all it was given.
template <typename Body>
double seconds_of(int repetitions, const std::function<void()>& wait, Body&& body) {
  body();
  wait();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repetitions; ++i) body();
  wait();
  return random_decoder::seconds_since(start) / repetitions;
}

/// Elements of a random matrix that the device puts elsewhere on the grid than the host, over formats and tilings.
std::int64_t elements_off_the_grid(const TrainPlace& place) {
  const at::Tensor matrix = at::randn({1000, 777}).mul(at::randn({1000, 777}).exp());
  std::int64_t off = 0;
  for (const NumberFormat format : kNumberFormats) {
    if (format == NumberFormat::bf16) continue;
    for (const Tiling tiling : {Tiling::along_rows, Tiling::down_columns})
      for (const bool stochastic : {false, true}) {
        const FakeQuantize how{
            .format = format, .tiling = tiling, .is_weight = !stochastic, .stochastic = stochastic, .key = 5};
        const at::Tensor host = at::empty_like(matrix), there = at::empty_like(matrix).to(place.device);
        host_train_arithmetic().fake_quantize(how, matrix, host);
        place.train->fake_quantize(how, matrix.to(place.device), there);
        off += host.ne(there.to(at::kCPU)).sum().item<std::int64_t>();
      }
  }
  return off;
}

/// A step's gradients with f32 operands, all in one vector in host memory.
at::Tensor gradients_of(const TrainPlace& place, NumberFormat format) {
  Parameters parameters = Parameters::random(spec_of("tiny"), 3, place);
  TrainingGraph graph(parameters, {.operand = at::kFloat, .seed = 2});
  graph.loss_and_gradients(random_decoder::ids_of(graph.spec(), 4, 128), uniform_scheme(graph.spec(), format), 1);
  std::vector<at::Tensor> all;
  for (const Parameter& parameter : parameters.all()) all.push_back(parameter.gradient.to(at::kCPU).flatten());
  return at::cat(all);
}

double relative_difference(const at::Tensor& found, const at::Tensor& wanted) {
  return found.sub(wanted).norm().item<double>() / wanted.norm().item<double>();
}

/// Of y = x W^T on odd shapes, in f32.
double product_difference(const TrainPlace& emulated, const TrainPlace& real) {
  const auto options = at::TensorOptions(at::kFloat).device(emulated.device);
  const at::Tensor x = at::randn({130, 1000}, options), w = at::randn({300, 1000}, options);
  Workspace workspace(emulated.device);
  const auto product = [&](const TrainPlace& place) {
    const ProductContext context{place, workspace};
    ProductInput input(x, context);
    const at::Tensor y = at::empty({130, 300}, options);
    quantized_forward({NumberFormat::fp8}, input, w, y, context);
    return y;
  };
  return relative_difference(product(real), product(emulated));
}

/// Loss and seconds of a step of `scheme`, AdamW included.
Json timed_steps(Parameters& parameters, const at::Tensor& ids, NumberFormat format, int steps) {
  TrainingGraph graph(parameters, {.operand = at::kBFloat16, .seed = 2});
  const PrecisionScheme scheme = uniform_scheme(graph.spec(), format);
  const TrainArithmetic& run = *graph.place().train;
  double loss = 0;
  const auto step = [&](std::uint64_t number) {
    loss = graph.loss_and_gradients(ids, scheme, number).mean;
    const double scale = clip_scale(run.gradient_norm(parameters), 1);
    run.adamw_update(parameters, {}, {.rate = 1e-4, .step = number, .gradient_scale = scale});
  };
  step(0);  // takes memory
  take_peak_device_bytes(graph.place().device);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 1; i <= steps; ++i) step(static_cast<std::uint64_t>(i));
  const std::uint64_t peak = take_peak_device_bytes(graph.place().device);  // waits for the device
  const double seconds = random_decoder::seconds_since(start) / steps;
  return {{"format", name_of(format)},
          {"fp8_products", graph.place().fp8_product != nullptr ? "hardware" : "emulated"},
          {"seconds_per_step", seconds},
          {"tokens_per_second", static_cast<double>(ids.numel()) / seconds},
          {"loss", loss},
          {"peak_bytes", peak}};
}

Json timed_product(const TrainPlace& place, const ModelSpec& spec, std::int64_t tokens) {
  const auto wait = [&] { take_peak_device_bytes(place.device); };
  const auto options = at::TensorOptions(at::kBFloat16).device(place.device);
  const at::Tensor x = at::randn({tokens, spec.hidden}, options),
                   w = at::randn({spec.intermediate, spec.hidden}, options),
                   y = at::empty({tokens, spec.intermediate}, options);
  const Fp8Operand a = fp8_operand(x), b = fp8_weight(w);
  return {{"tokens", tokens},
          {"inputs", spec.hidden},
          {"outputs", spec.intermediate},
          {"bf16_us", 1e6 * seconds_of(10, wait, [&] { place.arithmetic->product_forward(x, w, y); })},
          {"fp8_us", 1e6 * seconds_of(10, wait, [&] { place.fp8_product(a, b, y, false); })},
          {"fp8_operands_us", 1e6 * seconds_of(10, wait, [&] { fp8_operand(x), fp8_weight(w); })}};
}

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc < 3) fail(ErrorKind::usage, "usage: bench_train_steps OUT.json DEVICE [SIZE] [OPTION=VALUE…]");
  std::map<std::string, std::string> given = {{"size", "1b"}, {"windows", "4"}, {"length", "2048"}, {"steps", "10"}};
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto equals = argument.find('=');
    given[equals == std::string::npos ? "size" : argument.substr(0, equals)] =
        equals == std::string::npos ? argument : argument.substr(equals + 1);
  }
  const ComputeDevice device = compute_device_from_name(argv[2]);
  if (device == ComputeDevice::cpu) fail(ErrorKind::usage, "the host is what the device is held against");
  open_compute_device(device);
  const TrainPlace emulated = train_place(device, 0, false);
  TrainPlace real = emulated;
  Json result = {{"device", argv[2]}, {"model", given["size"]}};
  try {
    real.fp8_product = fp8_product_on(real.device);
  } catch (const Error& error) {
    result["no_fp8"] = error.what();
  }
  const bool fp8 = real.fp8_product != nullptr;

  bool sound = true;
  const auto held = [&](const std::string& what, double found, double allowed) {
    fmt::print("{}: {:.2e}, allowed {:.2e}{}\n", what, found, allowed, found <= allowed ? "" : "  WRONG");
    result["checks"].push_back({{"what", what}, {"found", found}, {"allowed", allowed}});
    sound = sound && found <= allowed;
  };
  held("elements off the host's grid", static_cast<double>(elements_off_the_grid(emulated)), 0);
  // Once f32 sums of another order have carried a number over a border of its grid, all behind it moves by more than
  // roundings: the host's own gradients, its weights off by 1e-6, are half of quantisation's effect away.
  const at::Tensor exact = gradients_of({}, NumberFormat::bf16);
  held("gradients in full precision beside the host's",
       relative_difference(gradients_of(emulated, NumberFormat::bf16), exact), 1e-4);
  const auto held_gradients = [&](const TrainPlace& place, NumberFormat format, const char* how) {
    const at::Tensor host = gradients_of({}, format);
    held(fmt::format("gradients in {}, {}, beside the host's", name_of(format), how),
         relative_difference(gradients_of(place, format), host), relative_difference(host, exact));
  };
  for (const NumberFormat format : kNumberFormats)
    if (format != NumberFormat::bf16) held_gradients(emulated, format, "emulated");
  if (fp8) {
    held_gradients(real, NumberFormat::fp8, "real products");
    // FP8 units keep some 14 bits of a sum of 128 products.
    held("a real FP8 product beside the emulated one", product_difference(emulated, real), 0x1p-10);
    result["product"] =
        timed_product(real, spec_of(given["size"]), std::stol(given["windows"]) * std::stol(given["length"]));
    fmt::print("{}\n", result["product"].dump());
  }

  const ModelSpec spec = spec_of(given["size"]);
  const at::Tensor ids = random_decoder::ids_of(spec, std::stol(given["windows"]), std::stol(given["length"]));
  const int steps = std::stoi(given["steps"]);
  const auto timed = [&](const TrainPlace& place, NumberFormat format) {
    Parameters parameters = Parameters::random(spec, 3, place);
    result["runs"].push_back(timed_steps(parameters, ids, format, steps));
    fmt::print("{}\n", result["runs"].back().dump());
  };
  for (const NumberFormat format : {NumberFormat::bf16, NumberFormat::fp8, NumberFormat::fp4}) timed(emulated, format);
  if (fp8) timed(real, NumberFormat::fp8);
  result["windows"] = ids.size(0), result["length"] = ids.size(1), result["sound"] = sound;
  std::ofstream(argv[1]) << result.dump(1) << "\n";
  return sound ? 0 : 1;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_train_steps: {}\n", error.what());
  return 1;
}
