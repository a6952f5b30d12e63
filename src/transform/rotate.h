// Changes the basis of the residual stream by an orthogonal R, [hidden, hidden]: a stream x becomes x R, so a matrix
// that reads it becomes W R, one that writes it R^T W, an embedding row e R. RMSNorm without weight commutes with R:
// the norms must be folded first.
#pragma once

#include "model/checkpoint.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

enum class RotationKind {
  /// Disjoint random pairs of channels, each turned by an angle of 0.2 to 0.6 rad with random sign (docs/method.md, the
  /// model R). Mixes little: outliers stay, a grid under the weights goes.
  givens,
  /// Randomised Hadamard: x is permuted at random, its channels get random signs, and each run of m consecutive
  /// channels is multiplied by the Hadamard matrix of order m (Sylvester's) over sqrt(m), where m is the largest power
  /// of two dividing `hidden`. Flattens outliers, over all channels only when `hidden` is itself a power of two.
  hadamard,
};

std::string_view name_of(RotationKind kind);
/// Throws Error(usage) listing the known names.
RotationKind rotation_kind_from_name(std::string_view name);

struct RotationOptions {
  RotationKind kind = RotationKind::givens;
  std::uint64_t seed = 1;
  std::int64_t pairs = 0;  // givens: how many; 0: hidden / 2, all channels
};

/// An orthogonal matrix kept as the steps that apply it. Same options, same rotation, on every machine whose cos and
/// sin round alike.
class Rotation {
 public:
  /// Throws Error(usage) when there are fewer than 2·pairs channels, or `hadamard` is asked of an odd number of
  /// channels.
  Rotation(std::int64_t hidden, const RotationOptions& options);
  /// x ← x R, x [hidden].
  void apply(std::span<double> x) const;

 private:
  struct Pair {
    std::uint32_t a, b;
    double cosine, sine;
  };
  std::vector<Pair> pairs_;            // givens
  std::vector<std::uint32_t> source_;  // hadamard: new channel → old channel
  std::vector<double> sign_;           // hadamard: ±1/sqrt(m)
  std::size_t order_ = 0;              // hadamard: m
};

/// Throws Error(bad_input) for a model with LayerNorm, which does not commute with a rotation.
void require_rotatable(const Checkpoint& checkpoint);

/// The same function in the basis R. Sums in double, one rounding to f32 per weight. Throws Error(bad_input) naming the
/// tensor when a norm of the stream has a weight other than 1, and as require_rotatable().
Checkpoint rotate_residual(const Checkpoint& checkpoint, const RotationOptions& options);

}  // namespace scalebits
