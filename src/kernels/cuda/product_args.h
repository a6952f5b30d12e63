// What a product's kernel is given: where the stream, the prepared activations, the schedule and the results lie, all
// in device memory. Plain values, passed to the kernel as they are.
#pragma once

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/prepared_layout.h"
#include "kernels/cuda/schedule.h"

namespace scalebits::cuda {

/// Matrices that read the same inputs in the same order (q, k and v; gate and up) are one stream, each from a panel of
/// its own on.
inline constexpr int kMostParts = 3;

enum class ElementType { f32, f16, bf16 };

struct PartView {
  std::uint32_t first_panel = 0;
  std::uint32_t rows = 0;
  const std::uint32_t* row_order = nullptr;  // null: identity
  void* y = nullptr;                         // [tokens, y_stride] of the output type, rows in original order
  std::int64_t y_stride = 0;
};

struct MatrixView {
  const std::uint8_t* stream = nullptr;         // 32-byte aligned
  const std::uint16_t* widths = nullptr;        // [panel, cell]
  const std::uint64_t* panel_bytes = nullptr;   // [panel]: where it begins
  const std::uint32_t* cell_offsets = nullptr;  // [panel, cell]: bytes from the panel's beginning, divided by 32
  const SideConstants* side = nullptr;          // [part]
  std::uint32_t panels = 0;
  std::uint32_t cells = 0;  // of a panel
  int groups = 1;           // of a cell
  int parts = 0;
};

struct ActivationView {
  const std::uint32_t* values = nullptr;  // in the kernel's order
  const float* sums = nullptr;
  const float* factors = nullptr;  // [tokens]; null: 1
  int tokens = 0;
  int blocks = 0;  // of 8 tokens, in memory
};

/// What makes one token's inputs of the residual stream x, f32: RMSNorm(x + delta + its bias).
struct NormView {
  const float* weight = nullptr;  // [inputs]; null: x is the inputs
  const float* delta = nullptr;   // [inputs]; null: nothing is added
  const float* delta_bias = nullptr;
  float eps = 0;
  float* sum = nullptr;  // [inputs]: becomes x + delta; not x, which all blocks read
};

/// What makes one token's inputs of the MLP's products x, f32: with_gate(x + bias, up + its bias), or without_gate(x +
/// bias) (activate.h).
struct MlpView {
  bool activates = false;
  const float* bias = nullptr;
  const float* up = nullptr;  // [inputs]; null: there is no gate
  const float* up_bias = nullptr;
};

/// One token, for kernels that gather it themselves.
struct InputView {
  const void* x = nullptr;  // [inputs], original order
  ElementType type = ElementType::f16;
  std::int64_t inputs = 0;
  const std::uint32_t* input_order = nullptr;  // null: identity
  NormView norm;
  MlpView mlp;
};
/// Of a cell: values, sums of groups, factor.
inline constexpr int kGatheredBytes = kCellCols * 2 + 3 * sizeof(float);

struct ScheduleView {
  const WarpRun* runs = nullptr;
  const std::uint32_t* block_cells = nullptr;
  const std::uint32_t* block_part = nullptr;
  const std::uint32_t* first_part = nullptr;
  const std::uint32_t* sharers = nullptr;
  std::uint32_t* arrivals = nullptr;  // [panel], zero between products
  float* sums = nullptr;              // [part, 64 rows x tokens of the kernel]
};

struct ProductArgs {
  MatrixView matrix;
  ActivationView x;
  InputView input;
  ScheduleView schedule;
  PartView part[kMostParts];
  ElementType output = ElementType::f32;
};

}  // namespace scalebits::cuda
