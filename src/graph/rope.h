// Rotary position embedding of rows of heads (model/rope_frequencies.h says what it is).
#pragma once

#include "model/rope_frequencies.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace scalebits {

/// Cosines and sines of positions 0 … positions - 1, each [positions, head_dim / 2] f32.
class RopeTable {
 public:
  explicit RopeTable(const ModelSpec& spec) : frequencies_(rope_frequencies(spec)) {}
  /// Makes the table reach `positions`.
  void reserve(std::int64_t positions);

  /// rows [n, heads * head_dim] f32 or bf16, in place: row r stands at position first + (r % length). `sign` -1 undoes
  /// +1.
  void rotate(const at::Tensor& rows, std::int64_t length, std::int64_t first, float sign) const;

 private:
  std::vector<double> frequencies_;
  std::vector<float> cosines_, sines_;
};

}  // namespace scalebits
