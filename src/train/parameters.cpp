#include "train/parameters.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

constexpr double kDeviation = 0.02;

bool is_residual_projection(const std::string& name) {
  return name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
}

}  // namespace

void require_trainable(const ModelSpec& spec, const std::string& where) {
  const auto refuse = [&](const char* what) { fail_input("{}: cannot be trained here: {}", where, what); };
  if (spec.norm != NormKind::rms) refuse("its norms are no RMSNorms");
  if (spec.positions != PositionKind::rotary) refuse("its positions are not rotary");
  if (spec.mlp != MlpKind::swiglu) refuse("its MLP is no SwiGLU");
  if (spec.qkv_bias || spec.o_bias || spec.mlp_bias) refuse("its linear layers have biases");
  if (spec.qk_norm) refuse("it norms q and k");
}

Parameters::Parameters(const ModelSpec& spec, const TrainPlace& place) : spec_(spec), place_(place) {
  for (const TensorShape& tensor : required_tensors(spec)) {
    const auto zeros = [&] { return at::zeros(tensor.shape, at::TensorOptions(at::kFloat).device(place.device)); };
    index_[tensor.name] = all_.size();
    all_.push_back({tensor.name, zeros(), zeros(), zeros(), zeros(), tensor.shape.size() > 1});
  }
}

Parameter& Parameters::at(const std::string& name) {
  const auto found = index_.find(name);
  if (found == index_.end()) throw InternalError("no parameter is called " + name);
  return all_[found->second];
}

Parameters Parameters::random(const ModelSpec& spec, std::uint64_t seed, const TrainPlace& place) {
  Parameters parameters(spec, place);
  std::uint64_t stream = 0;
  for (Parameter& parameter : parameters.all_) {
    const CounterRng rng(seed, 0x7061000000000000ull + stream++);
    if (parameter.value.dim() == 1) {
      parameter.value.fill_(1);
      continue;
    }
    const at::Tensor host = parameter.value.to(at::kCPU);
    auto* const values = host.data_ptr<float>();
    const std::int64_t count = host.numel();
    const double deviation = is_residual_projection(parameter.name)
                                 ? kDeviation / std::sqrt(2 * static_cast<double>(spec.layers))
                                 : kDeviation;
    constexpr std::int64_t kPiece = 1 << 14;
    parallel_for((count + kPiece - 1) / kPiece, [&](std::int64_t piece) {
      for (std::int64_t i = piece * kPiece; i < std::min(count, (piece + 1) * kPiece); ++i)
        values[i] = static_cast<float>(deviation * rng.normal(static_cast<std::uint64_t>(i)));
    });
    parameter.value.copy_(host);  // nothing to do where it is the same
  }
  return parameters;
}

Parameters Parameters::from_checkpoint(const Checkpoint& checkpoint, const TrainPlace& place) {
  Parameters parameters(checkpoint.spec, place);
  for (Parameter& parameter : parameters.all_) {
    const at::Tensor host = parameter.value.to(at::kCPU);
    checkpoint.tensor(parameter.name).copy_f32(0, {host.data_ptr<float>(), static_cast<std::size_t>(host.numel())});
    parameter.value.copy_(host);
  }
  return parameters;
}

std::map<std::string, HostTensor> Parameters::host_tensors() const {
  std::map<std::string, HostTensor> tensors;
  for (const Parameter& parameter : all_) {
    const at::Tensor host = parameter.value.to(at::kCPU);
    const auto bytes = std::as_bytes(std::span(host.const_data_ptr<float>(), static_cast<std::size_t>(host.numel())));
    tensors[parameter.name] = {DType::f32, host.sizes().vec(), bytes, std::make_shared<at::Tensor>(host)};
  }
  return tensors;
}

}  // namespace scalebits
