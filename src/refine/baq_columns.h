// BAQ as published (arXiv 2506.05664 and its released code): GPTQ in which every input column has its own number of
// levels, found by a first pass at one rate. A research mode: levels are no whole bits and no file format holds them,
// so the result is dense weights and an honest count of what they would take.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

struct ColumnRounding {
  at::Tensor weights;          // [rows, cols] f32
  std::vector<double> losses;  // of each column: ½ Σ_i (w_ij − q_ij)² / U_jj², w being what GPTQ has made of it by then
  double entropy_bits = 0;     // of all codes, each column coded by its own frequencies; tables of them not counted
  double field_bits = 0;       // of all codes, each column in the smallest whole field that holds its levels
  double side_bits = 0;        // 32 for each row (range and zero), 8 for each column (levels)
};

/// `weights` [rows, cols] f32; `factor` as inverse_factor() gives it; `levels` of each column: 1 (the column is zero)
/// to 256. Every row has one range, that of its weights and 0, which each column divides by its own levels.
ColumnRounding round_columns(const at::Tensor& weights, const at::Tensor& factor, std::span<const int> levels);

/// n_j = round(max(1, (L_j / GM(L) · 2^(θ·bits))^(1/θ))), at most 256; a column without loss gets one level.
std::vector<int> baq_levels(std::span<const double> losses, double bits, double theta = 1.95);

}  // namespace scalebits
