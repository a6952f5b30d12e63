// Rotary position embedding of rows of heads (model/rope_frequencies.h says what it is).
#pragma once

#include "model/rope_frequencies.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace scalebits {

/// Cosines and sines of positions 0 … positions - 1, each [positions, head_dim / 2] f32 on the device.
class RopeTable {
 public:
  explicit RopeTable(const ModelSpec& spec, at::Device device = at::kCPU)
      : frequencies_(rope_frequencies(spec)), device_(device) {}
  /// Makes the table reach `positions`.
  void reserve(std::int64_t positions);
  const at::Tensor& cosines() const { return cosines_; }
  const at::Tensor& sines() const { return sines_; }

 private:
  std::vector<double> frequencies_;
  at::Device device_;
  at::Tensor cosines_, sines_;
};

/// rows [n, heads * head_dim] f32 or bf16, in place: row r stands at position first + (r % length), which `table` must
/// reach. `sign` -1 undoes +1.
void rotate(const RopeTable& table, const at::Tensor& rows, std::int64_t length, std::int64_t first, float sign);

}  // namespace scalebits
