// What the measurements on a device run: a random Llama whose weights repeat a piece of random numbers (a pass takes as
// long), every linear layer rounded to nearest at 2 to 4 bits at random, and random text. Needs no files.
#pragma once

#include "core/error.h"
#include "core/random.h"
#include "model/checkpoint.h"
#include "partition/partition.h"
#include "rounding/bit_plan.h"
#include "rounding/rounded_matrix.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace scalebits::random_decoder {

inline ModelSpec spec_of(const std::string& size) {
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

inline Checkpoint checkpoint_of(const ModelSpec& spec) {
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

struct Rounded {
  RoundedMatrices matrices;
  BitPlan plan;
};
/// Ranges are not searched. Keeps a reference to the checkpoint's weights.
inline Rounded rounded(const Checkpoint& checkpoint) {
  Rounded rounded;
  const CounterRng rng(2);
  for (const MatrixPartition& matrix : identity_partition(checkpoint.spec, false).matrices) {
    rounded.matrices.push_back(std::make_unique<RoundedMatrix>(checkpoint.tensor(matrix.name), matrix,
                                                               BlockShape{64, 64}, GroupOptions{.clip_search = false},
                                                               std::span<const float>()));
    rounded.plan.widths.emplace_back();
    for (std::int64_t i = 0; i < rounded.matrices.back()->format().block_count(); ++i)
      rounded.plan.widths.back().push_back(static_cast<std::uint8_t>(2 + rng.below(static_cast<std::uint64_t>(i), 3)));
  }
  return rounded;
}

inline at::Tensor ids_of(const ModelSpec& spec, std::int64_t windows, std::int64_t length) {
  const CounterRng rng(2);
  at::Tensor ids = at::empty({windows, length}, at::kLong);
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    ids.data_ptr<std::int64_t>()[i] =
        static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(spec.vocab)));
  return ids;
}

/// OPTION=VALUE from argv[3] on, over `options`; a word alone is the model's size, `offload` a flag of that name.
inline std::map<std::string, std::string> options_of(int argc, char** argv,
                                                     std::map<std::string, std::string> options) {
  for (int i = 3; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto equals = argument.find('=');
    if (equals != std::string::npos)
      options[argument.substr(0, equals)] = argument.substr(equals + 1);
    else
      options[argument == "offload" ? "offload" : "size"] = argument;
  }
  return options;
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace scalebits::random_decoder
