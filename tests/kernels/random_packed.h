// Random packed matrices for the tests of kernels: any format, any mix of widths, any codes, any orders.
#pragma once

#include "core/random.h"
#include "format/packed_matrix.h"
#include "kernels/weights.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace scalebits {

/// Draws one after the other.
struct Dice {
  explicit Dice(std::uint64_t seed) : rng(seed) {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(rng.below(draw++, static_cast<std::uint64_t>(n)));
  }
  /// In [-1, 1).
  float real() { return static_cast<float>(below(1 << 24)) * 0x1p-23f - 1; }
  std::vector<std::uint32_t> permutation(std::int64_t n) {
    std::vector<std::uint32_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0u);
    for (std::int64_t i = n - 1; i > 0; --i)
      std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(below(i + 1))]);
    return order;
  }
  CounterRng rng;
  std::uint64_t draw = 0;
};

enum class Codes { random, largest, zero };

inline MatrixFormat random_packed_format(Dice& dice, std::int64_t rows, std::int64_t cols) {
  constexpr std::array kBlockRows = {16, 32, 64, 128};
  constexpr std::array kGroups = {32, 64, 128};
  MatrixFormat format{.rows = rows, .cols = cols, .block_rows = kBlockRows[static_cast<std::size_t>(dice.below(4))]};
  format.block_cols = dice.below(2) == 0 ? 64 : 128;
  format.group_cols = kGroups[static_cast<std::size_t>(dice.below(format.block_cols == 64 ? 2 : 3))];
  format.side = {.scale_bits = static_cast<int>(4 + dice.below(5)),
                 .zero_bits = static_cast<int>(dice.below(9)),
                 .scale_base = 0.003f,
                 .scale_step_log2 = dice.below(2) == 0 ? 0.03f : 0.125f,  // the latter: eight scales to an octave
                 .zero_range = 0.7f};
  return format;
}

/// Owns what a PackedWeights refers to.
struct RandomPacked {
  std::vector<std::byte> blob;
  std::vector<std::uint32_t> row_order, input_order;
  std::unique_ptr<PackedWeights> weights;
};

inline RandomPacked random_packed(Dice& dice, const MatrixFormat& format, const std::vector<std::uint8_t>& widths,
                                  Codes codes = Codes::random) {
  RandomPacked result;
  result.blob.resize(packed_bytes(format, widths));
  const std::uint64_t seed = static_cast<std::uint64_t>(dice.below(1 << 30));
  pack_matrix(
      format, widths,
      [&](std::int64_t tile_row, std::int64_t block_col, int width, Strip& strip) {
        Dice local(seed + static_cast<std::uint64_t>(tile_row * 1000 + block_col));
        for (auto& row : strip.codes)
          for (std::uint8_t& code : row)
            code = static_cast<std::uint8_t>(codes == Codes::zero      ? 0
                                             : codes == Codes::largest ? (1 << width) - 1
                                                                       : local.below(1 << width));
        for (auto& group : strip.scale_codes)
          for (std::uint8_t& code : group) code = static_cast<std::uint8_t>(local.below(1 << format.side.scale_bits));
        for (auto& group : strip.zero_codes)
          for (std::uint8_t& code : group) code = static_cast<std::uint8_t>(local.below(1 << format.side.zero_bits));
      },
      result.blob);
  if (dice.below(2) == 0) result.row_order = dice.permutation(format.rows);
  if (dice.below(2) == 0) result.input_order = dice.permutation(format.cols);
  result.weights = std::make_unique<PackedWeights>(PackedMatrix(format, result.blob, "random"), result.row_order,
                                                   result.input_order);
  return result;
}

inline std::vector<std::uint8_t> random_block_widths(Dice& dice, const MatrixFormat& format) {
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()));
  for (std::uint8_t& width : widths) width = static_cast<std::uint8_t>(dice.below(9));
  return widths;
}

}  // namespace scalebits
