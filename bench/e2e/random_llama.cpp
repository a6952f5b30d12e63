// Writes a Llama with random bf16 weights as a Hugging Face folder, to try the whole job at a size that no package
// brings: time and memory do not depend on what a model knows. The tokenizer is that of TOKENIZER_MODEL.
//   bench_random_llama OUT TOKENIZER_MODEL LAYERS HIDDEN HEADS KV_HEADS INTERMEDIATE
#include "checkpoint/read_checkpoint.h"
#include "checkpoint/write_hf_folder.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

using namespace scalebits;

namespace {

/// Normal with the variance that keeps activations of unit size: 1 / inputs; norm weights are 1.
HostTensor random_tensor(const TensorShape& shape, std::uint64_t stream) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape.shape) count *= extent;
  const auto bits = std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(count));
  const CounterRng rng(1, stream);
  const bool is_norm = shape.shape.size() == 1;
  const double deviation = is_norm ? 0 : 1 / std::sqrt(static_cast<double>(shape.shape.back()));
  const std::int64_t row = shape.shape.back();
  parallel_for(count / row, [&](std::int64_t r) {
    for (std::int64_t i = r * row; i < (r + 1) * row; ++i)
      (*bits)[static_cast<std::size_t>(i)] =
          f32_to_bf16(static_cast<float>(is_norm ? 1.0 : deviation * rng.normal(static_cast<std::uint64_t>(i))));
  });
  return {DType::bf16, shape.shape, std::as_bytes(std::span(*bits)), bits};
}

}  // namespace

int main(int argc, char** argv) try {
  limit_spinning(argv);
  if (argc != 8)
    fail(ErrorKind::usage, "usage: bench_random_llama OUT TOKENIZER_MODEL LAYERS HIDDEN HEADS KV_HEADS INTERMEDIATE");
  Checkpoint checkpoint = read_checkpoint(argv[2]);
  ModelSpec& spec = checkpoint.spec;
  spec.layers = std::stol(argv[3]);
  spec.hidden = std::stol(argv[4]);
  spec.heads = std::stol(argv[5]);
  spec.kv_heads = std::stol(argv[6]);
  spec.intermediate = std::stol(argv[7]);
  spec.head_dim = spec.hidden / spec.heads;
  validate(spec, "random model");
  checkpoint.tensors.clear();
  checkpoint.hash = "random";
  double weights = 0;
  for (const TensorShape& shape : required_tensors(spec)) {
    checkpoint.tensors[shape.name] = random_tensor(shape, checkpoint.tensors.size());
    weights += static_cast<double>(checkpoint.tensors[shape.name].elements());
  }
  write_hf_folder(checkpoint, argv[1], DType::bf16);
  fmt::print("{}: {:.3f} billion weights\n", argv[1], weights / 1e9);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_random_llama: {}\n", error.what());
  return 1;
}
