// Fake quantisation: every element of a matrix is replaced by what its low-precision code stands for, so that a product
// of such matrices in a wider type is the product that hardware of that format makes. Vectorised, cut over threads; the
// result depends on neither.
#pragma once

#include "graph/row_kernels.h"
#include "train/number_format.h"

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

/// What the elements of one tile of scale have in common. A tile never reaches over the matrix' edge: the last ones of
/// a row or column are short.
enum class Tiling {
  along_rows,   // runs within a row: the product contracts over the columns
  down_columns  // runs within a column: the product contracts over the rows
};

struct FakeQuantize {
  NumberFormat format = NumberFormat::fp8;  // not bf16
  Tiling tiling = Tiling::along_rows;
  bool is_weight = false;   // fp8 and fp4 then take 128x128 blocks; the other formats tile weights like the rest
  bool stochastic = false;  // rounds up with probability (value - lower neighbour) / step, else to nearest even
  std::uint64_t key = 0;    // stochastic: the random numbers are a pure function of this and of the element's place
};

/// in, out [rows, cols] row-major; `out` may be `in` where the types agree. Elements beyond the format's range
/// saturate. A NaN stays one and an infinity becomes one, so that neither passes for a number.
template <typename In, typename Out>
void fake_quantize(const FakeQuantize& how, const In* in, std::int64_t rows, std::int64_t cols, Out* out);

extern template void fake_quantize(const FakeQuantize&, const float*, std::int64_t, std::int64_t, float*);
extern template void fake_quantize(const FakeQuantize&, const float*, std::int64_t, std::int64_t, Bf16*);
extern template void fake_quantize(const FakeQuantize&, const Bf16*, std::int64_t, std::int64_t, Bf16*);

/// The same of tensors [rows, cols] in host memory; in, out f32 or bf16, out no wider than in.
void fake_quantize(const FakeQuantize& how, const at::Tensor& in, const at::Tensor& out);

/// Elements that share a scale.
struct Tile {
  std::int64_t rows, cols;
};
Tile tile_of(const FakeQuantize& how);

/// In (0, 1): what stochastic rounding compares with, for element `index` under `key`.
float stochastic_uniform(std::uint64_t key, std::uint32_t index);

}  // namespace scalebits
