// What the portable half of the dense kernels (dense_kernels.cpp) hands to the half that is compiled for each
// instruction set: plain numbers and pointers only, so that no inline function of ours is compiled for one set and
// linked for all.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scalebits {

enum class DenseElement { f32, f16, bf16 };

/// y[i · y_stride + r] = sum of x[i, k] · w[r, k], for rows r of [first_row, last_row) and all rows i of x.
struct DenseCall {
  DenseElement element = DenseElement::f32;
  const std::byte* weights = nullptr;  // [rows, cols]
  std::int64_t cols = 0;
  std::int64_t first_row = 0;
  std::int64_t last_row = 0;
  const float* x = nullptr;
  std::int64_t x_rows = 0;
  std::int64_t x_stride = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  // Scratch at multiples of 64 bytes, when there are more than kDenseFewRows rows of x.
  float* w_panel = nullptr;  // kDensePanelRows x kDensePanelCols
  float* x_block = nullptr;  // kDenseBlockRows x cols, padded to a multiple of 16
  float* sums = nullptr;     // kDensePanelRows x kDenseBlockRows x 16
};

// Up to so many rows of x, W is used where it lies. Beyond, a panel of W turned to f32 serves a block of x; with more
// inputs than a panel has, sums wait while the next inputs are turned.
inline constexpr std::int64_t kDenseFewRows = 12;
inline constexpr std::int64_t kDensePanelRows = 64;
inline constexpr std::int64_t kDensePanelCols = 1024;
inline constexpr std::int64_t kDenseBlockRows = 192;

void dense_scalar(const DenseCall& call);
void dense_avx2(const DenseCall& call);
void dense_avx512(const DenseCall& call);

}  // namespace scalebits
