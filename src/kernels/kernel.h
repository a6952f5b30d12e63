// The table of kernels: what each one does, on which instruction set, and how it is called. A product y = x Wᵀ is
// shared out by rows of W: each call computes some tile rows (16 rows of W) for all rows of x. One row of y is always
// summed in the same order, so results depend neither on the number of threads nor on the number of rows of x, and all
// kernels of one operation give the same bits (docs/kernels.md):
//   packed_i8   for each group of 32 or 64 inputs, left to right: a = Σ code · value, exact; t = fma(−zero, sum, a);
//               y = fma(t, weight scale · activation scale, y)
//   packed_f32  for each group: t = Σ fma(code − zero, x, t) input by input; y = fma(t, scale, y)
//   dense       sixteen partial sums, of inputs k, k + 16, k + 32 …; then added in a fixed tree; all in f32
#pragma once

#include "kernels/activations.h"
#include "kernels/isa.h"
#include "kernels/weights.h"

#include <cstdint>
#include <span>
#include <string_view>

namespace scalebits {

enum class Op { packed_i8, packed_f32, dense };

/// Rows [16·first_tile_row, 16·last_tile_row) of W, cut at its last row; y [x.rows, y_stride], the matrix' stored row r
/// at y[i·y_stride + r]. Kernels do not scatter: two threads would write into the same cache lines (LinearRunner does).
struct PackedTask {
  const PackedWeights* weights = nullptr;
  const Activations* x = nullptr;
  std::int64_t first_tile_row = 0;
  std::int64_t last_tile_row = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
};

/// Rows [first_row, last_row) of W; x [x_rows, x_stride] f32 in original order.
struct DenseTask {
  const DenseWeights* weights = nullptr;
  const float* x = nullptr;
  std::int64_t x_rows = 0;
  std::int64_t x_stride = 0;
  std::int64_t first_row = 0;
  std::int64_t last_row = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
};

/// x [rows, x_stride] f32 in original order → groups [first, last) of `out`, resized beforehand; groups are counted row
/// by row, so that threads can share a single row, too.
struct GatherTask {
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t inputs = 0;                     // real ones; out->cols is padded
  std::span<const std::uint32_t> input_order;  // empty: identity
  std::int64_t first = 0;
  std::int64_t last = 0;
  Activations* out = nullptr;
};

struct PackedKernel {
  std::string_view name;
  ActivationFormat format;
  Isa isa;
  std::int64_t least_rows;  // of x, for which it is meant; it is right for any number
  void (*run)(const PackedTask&);
};
struct DenseKernel {
  std::string_view name;
  Isa isa;
  void (*run)(const DenseTask&);
};
struct GatherKernel {
  std::string_view name;
  ActivationFormat format;
  Isa isa;
  void (*run)(const GatherTask&);
};

/// All that are built, best first; a kernel is chosen by taking the first that the machine has and the problem allows.
std::span<const PackedKernel> packed_kernels();
std::span<const DenseKernel> dense_kernels();
std::span<const GatherKernel> gather_kernels();

/// The kernels that run everything at `highest` and below.
struct KernelChoice {
  explicit KernelChoice(Isa highest);
  Isa highest;
  const DenseKernel* dense;

  const PackedKernel& packed(ActivationFormat format, std::int64_t x_rows) const;
  const GatherKernel& gather(ActivationFormat format) const;
};

}  // namespace scalebits
