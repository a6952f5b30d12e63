#include "transform/rotate.h"

#include "core/hash.h"
#include "core/parallel.h"
#include "core/random.h"
#include "transform/residual_stream.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace scalebits {
namespace {

constexpr std::pair<RotationKind, std::string_view> kKinds[] = {{RotationKind::givens, "givens"},
                                                                {RotationKind::hadamard, "hadamard"}};
constexpr double kSmallestAngle = 0.2, kLargestAngle = 0.6;  // rad

/// Streams of the counter-based generator under the rotation's seed.
enum Stream : std::uint64_t { permutation_stream, angle_stream, sign_stream };

std::vector<std::uint32_t> random_permutation(std::int64_t count, std::uint64_t seed) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0u);
  const CounterRng rng(seed, permutation_stream);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i, i)]);
  return order;
}

std::int64_t pair_count(std::int64_t hidden, const RotationOptions& options) {
  if (options.kind != RotationKind::givens) return 0;
  return options.pairs == 0 ? hidden / 2 : options.pairs;
}

bool random_sign(const CounterRng& rng, std::uint64_t index) { return rng.bits(index) >> 63; }

/// Multiplies x by Sylvester's Hadamard matrix, unscaled.
void hadamard_in_place(std::span<double> x) {
  for (std::size_t half = 1; half < x.size(); half *= 2)
    for (std::size_t first = 0; first < x.size(); first += 2 * half)
      for (std::size_t i = first; i < first + half; ++i) {
        const double a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
}

/// Rows or columns handled by one call of a parallel loop's body; a block of columns is a cache line of floats wide.
constexpr std::int64_t kBlock = 16;

/// W R: every row of [.., hidden] is rotated.
HostTensor rotate_last_dimension(const HostTensor& tensor, const Rotation& rotation) {
  const std::int64_t width = tensor.shape.back(), rows = tensor.elements() / width;
  std::vector<float> values = tensor.to_f32();
  parallel_for((rows + kBlock - 1) / kBlock, [&](std::int64_t block) {
    std::vector<double> x(static_cast<std::size_t>(width));
    for (std::int64_t row = block * kBlock; row < std::min(rows, (block + 1) * kBlock); ++row) {
      float* const weights = values.data() + row * width;
      std::copy_n(weights, width, x.begin());
      rotation.apply(x);
      std::transform(x.begin(), x.end(), weights, [](double value) { return static_cast<float>(value); });
    }
  });
  return HostTensor::from_f32(tensor.shape, std::move(values));
}

/// R^T W: every column of [hidden, cols] is rotated.
HostTensor rotate_first_dimension(const HostTensor& tensor, const Rotation& rotation) {
  const std::int64_t height = tensor.shape[0], cols = tensor.shape[1];
  std::vector<float> values = tensor.to_f32();
  parallel_for((cols + kBlock - 1) / kBlock, [&](std::int64_t block) {
    const std::int64_t first = block * kBlock, count = std::min(kBlock, cols - first);
    std::vector<double> columns(static_cast<std::size_t>(count * height));
    for (std::int64_t row = 0; row < height; ++row)
      for (std::int64_t i = 0; i < count; ++i) columns[i * height + row] = values[row * cols + first + i];
    for (std::int64_t i = 0; i < count; ++i)
      rotation.apply(std::span(columns.data() + i * height, static_cast<std::size_t>(height)));
    for (std::int64_t row = 0; row < height; ++row)
      for (std::int64_t i = 0; i < count; ++i)
        values[row * cols + first + i] = static_cast<float>(columns[i * height + row]);
  });
  return HostTensor::from_f32(tensor.shape, std::move(values));
}

void check_folded(const Checkpoint& checkpoint, const std::vector<std::string>& norms) {
  for (const std::string& norm : norms) {
    const std::vector<float> weight = checkpoint.tensor(norm).to_f32();
    const auto other = std::find_if(weight.begin(), weight.end(), [](float value) { return value != 1; });
    if (other != weight.end())
      fail_input("{}: tensor '{}': a rotation needs norm weights of 1, found {} at channel {}; fold the norms first",
                 checkpoint.source, norm, *other, other - weight.begin());
  }
}

}  // namespace

std::string_view name_of(RotationKind kind) {
  for (const auto& [value, name] : kKinds)
    if (value == kind) return name;
  throw InternalError("unknown rotation");
}

RotationKind rotation_kind_from_name(std::string_view name) {
  for (const auto& [kind, known] : kKinds)
    if (known == name) return kind;
  fail(ErrorKind::usage, "unknown rotation '{}'; known are givens, hadamard", name);
}

Rotation::Rotation(std::int64_t hidden, const RotationOptions& options) {
  std::vector<std::uint32_t> order = random_permutation(hidden, options.seed);
  const CounterRng signs(options.seed, sign_stream);
  if (options.kind == RotationKind::givens) {
    const std::int64_t count = pair_count(hidden, options);
    if (count < 0 || count > hidden / 2)
      fail(ErrorKind::usage, "a rotation of {} channels can have 1 to {} pairs, found {}", hidden, hidden / 2, count);
    const CounterRng angles(options.seed, angle_stream);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      const double size = kSmallestAngle + (kLargestAngle - kSmallestAngle) * angles.uniform(i);
      const double angle = random_sign(signs, i) ? -size : size;
      pairs_.push_back({order[2 * i], order[2 * i + 1], std::cos(angle), std::sin(angle)});
    }
    return;
  }
  order_ = static_cast<std::size_t>(hidden & -hidden);
  if (order_ < 2) fail(ErrorKind::usage, "a Hadamard rotation needs an even number of channels, found {}", hidden);
  source_ = std::move(order);
  const double scale = 1 / std::sqrt(static_cast<double>(order_));
  for (std::size_t i = 0; i < source_.size(); ++i) sign_.push_back(random_sign(signs, i) ? -scale : scale);
}

void Rotation::apply(std::span<double> x) const {
  for (const auto& [a, b, cosine, sine] : pairs_) {
    const double at_a = x[a], at_b = x[b];
    x[a] = cosine * at_a - sine * at_b;
    x[b] = sine * at_a + cosine * at_b;
  }
  if (order_ == 0) return;
  std::vector<double> mixed(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) mixed[i] = sign_[i] * x[source_[i]];
  for (std::size_t first = 0; first < x.size(); first += order_)
    hadamard_in_place(std::span(mixed).subspan(first, order_));
  std::copy(mixed.begin(), mixed.end(), x.begin());
}

void require_rotatable(const Checkpoint& checkpoint) {
  if (checkpoint.spec.norm != NormKind::rms)
    fail_input(
        "{}: the residual stream can be rotated only where its norms are RMSNorm: this {} model's LayerNorm "
        "subtracts the mean of the channels, which a rotation changes",
        checkpoint.source, name_of(checkpoint.spec.family));
}

Checkpoint rotate_residual(const Checkpoint& checkpoint, const RotationOptions& options) {
  require_rotatable(checkpoint);
  const ResidualTensors touched = residual_tensors(checkpoint.spec);
  check_folded(checkpoint, touched.norms);
  const Rotation rotation(checkpoint.spec.hidden, options);
  Checkpoint rotated = checkpoint;
  for (const std::string& name : touched.last_dimension)
    rotated.tensors[name] = rotate_last_dimension(checkpoint.tensor(name), rotation);
  for (const std::string& name : touched.first_dimension)
    rotated.tensors[name] = rotate_first_dimension(checkpoint.tensor(name), rotation);
  rotated.hash = hash_hex(fmt::format("{} rotate_residual {} seed {} pairs {}", checkpoint.hash, name_of(options.kind),
                                      options.seed, pair_count(checkpoint.spec.hidden, options)));
  return rotated;
}

}  // namespace scalebits
