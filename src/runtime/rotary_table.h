// Cosines and sines of the rotary embedding for positions from 0 on, computed in f64 and rounded once.
#pragma once

#include "model/rope_frequencies.h"

#include <cstdint>
#include <vector>

namespace scalebits {

class RotaryTable {
 public:
  explicit RotaryTable(const ModelSpec& spec) : frequencies_(rope_frequencies(spec)) {}
  /// Makes the table reach `positions` at least.
  void reserve(std::int64_t positions);

  /// [head_dim / 2], of a position below what was reserved.
  const float* cosines(std::int64_t position) const { return cosines_.data() + index(position); }
  const float* sines(std::int64_t position) const { return sines_.data() + index(position); }

 private:
  std::size_t index(std::int64_t position) const { return static_cast<std::size_t>(position) * frequencies_.size(); }
  std::vector<double> frequencies_;
  std::vector<float> cosines_, sines_;
};

}  // namespace scalebits
