// One matrix whose codes are being tuned: each weight's level is its code as a real number, and so are each group's
// range and zero where those move, too. A pass sees them rounded; a step moves them by Adam on the gradient of the
// rounded weights (straight-through), weights with second moments of their group and their column. A weight takes four
// bytes: its level, 16 bits of which the code is the upper ones (so the wider the code, the coarser its steps: 1/256 at
// 8 bits), and the running gradient in bf16. What starts and paces are worth: bench/results/tuning.md.
#pragma once

#include "rounding/coded_matrix.h"
#include "rounding/rounded_matrix.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits {

/// How far one step moves a level whose gradient keeps its sign, in codes.
struct TuneRates {
  float codes = 0;
  float sides = 0;  // ranges and zeros of groups
};

/// What a tuned matrix keeps for each weight, in bytes; and a float for each column.
double tuning_bytes_per_weight(std::int64_t group_cols, bool sides_move);

class TunedMatrix {
 public:
  /// How far a step moves a level: by_group, its rate if the gradient keeps its sign, whatever the gradient's size in
  /// the group; by_use, less where the gradient is small beside the whole matrix', as in an embedding's rows of tokens
  /// that the text hardly has.
  enum class Pace { by_group, by_use };

  struct Options {
    Pace pace = Pace::by_group;
    bool sides_move = false;
  };

  /// Keeps references to the matrix and the widths. Levels start anywhere in the cells of their codes, evenly: so the
  /// model follows them from the first step on. Where all start alike, none changes a code for many steps, and then
  /// all that were pushed do, though the gradient never heard of the way.
  TunedMatrix(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, const CodedMatrix& start,
              const Options& options);

  const MatrixFormat& format() const { return matrix_.format(); }
  /// [rows, cols] f32 in the original order.
  void dequantize(float* out) const;
  /// `gradient` [rows, cols] in the original order; `step` counts from 1.
  void update(const float* gradient, TuneRates rates, int step);
  std::vector<std::byte> packed() const;

  struct StateTensor {
    std::string name;
    std::string_view dtype;  // as safetensors has it
    std::span<std::byte> bytes;
  };
  /// All that changes, for a file that tuning goes on from.
  std::vector<StateTensor> state();

  struct GroupSlopes;

 private:
  // Range, then zero, of a group.
  struct Side {
    float level[2], mean[2], square[2];
  };
  /// Takes the gradient into the running squares; returns how fast each column's levels go, [cols].
  std::vector<float> take_squares(const float* gradient, float correction);
  void step_side(std::size_t group, int bits, const GroupSlopes& slopes, float rate, float correction);
  template <typename Body>
  void each_row(const Body& body) const;
  template <typename Body>
  void each_group(std::int64_t row, const Body& body) const;

  const RoundedMatrix& matrix_;
  std::span<const std::uint8_t> widths_;
  Pace pace_;
  std::vector<std::uint16_t> level_;  // [rows, cols], stored order: (level + 1/2) 2^(16 - width)
  std::vector<std::uint16_t> mean_;   // [rows, cols], bf16: running gradient of the level
  std::vector<float> square_;         // [groups]
  std::vector<float> column_square_;  // [cols], stored order: of gradients in mean squares of their rows, mean of all
  std::vector<GroupCode> groups_;     // [groups]
  std::vector<Side> sides_;           // [groups], or none where they stay
};

}  // namespace scalebits
