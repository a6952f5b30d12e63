// One matrix whose codes are being tuned: each weight's level is its code as a real number, and so are each group's
// range and zero. A pass sees them rounded; a step moves them by Adam on the gradient of the rounded weights
// (straight-through), weights with one second moment per group.
#pragma once

#include "rounding/coded_matrix.h"
#include "rounding/rounded_matrix.h"
#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace scalebits {

/// How far one step moves a level whose gradient keeps its sign, in codes.
struct TuneRates {
  float codes = 0;
  float sides = 0;  // ranges and zeros of groups
};

class TunedMatrix {
 public:
  /// How far a step moves a level: by_group, its rate if the gradient keeps its sign, whatever the gradient's size in
  /// the group; by_use, less where the gradient is small beside the whole matrix', as in an embedding's rows of tokens
  /// that the text hardly has.
  enum class Pace { by_group, by_use };

  /// Keeps references to the matrix and the widths. A level starts within the cell of its code: `lean` of the way from
  /// the middle to the full-precision weight, or to the cell's edge where that lies outside. In the middle all need the
  /// same push to leave; leaning ones leave one after the other, the least certain first.
  TunedMatrix(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, const CodedMatrix& start, double lean,
              Pace pace = Pace::by_group);

  const MatrixFormat& format() const { return matrix_.format(); }
  /// [rows, cols] f32 in the original order.
  void dequantize(float* out) const;
  /// `gradient` [rows, cols] in the original order; `step` counts from 1.
  void update(const float* gradient, TuneRates rates, int step);
  std::vector<std::byte> packed() const;

  /// All that changes, for a file that tuning goes on from: name and values of each tensor.
  std::vector<std::pair<std::string, std::span<float>>> state();

 private:
  // Range, then zero, of a group.
  struct Side {
    float level[2], mean[2], square[2];
  };
  GroupCode rounded(const Side& side) const;
  template <typename Body>
  void each_row(const Body& body) const;
  template <typename Body>
  void each_group(std::int64_t row, const Body& body) const;

  const RoundedMatrix& matrix_;
  std::span<const std::uint8_t> widths_;
  Pace pace_;
  std::vector<float> level_, mean_;  // [rows, cols], stored order
  std::vector<float> square_;        // [groups]
  std::vector<Side> sides_;          // [groups]
};

}  // namespace scalebits
