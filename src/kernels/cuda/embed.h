// x = the token's row of the embedding (+ its position's row of a table). The tables are 16-bit or f32 as the model has
// them, or packed, in the stream that products read: the embedding and the head of a tied model are one copy.
#pragma once

#include "kernels/cuda/block.h"
#include "kernels/cuda/half.h"
#include "kernels/cuda/stream_weight.h"
#include "kernels/cuda/token_state.h"

namespace scalebits::cuda {

struct TableView {
  const void* dense = nullptr;  // [rows, width]; null: packed
  ElementType type = ElementType::f16;
  MatrixView packed;                           // of one matrix
  const std::uint32_t* stored_row = nullptr;   // of each row, the place where it is stored; null: its own
  const std::uint32_t* input_order = nullptr;  // of the columns; null: identity
};

struct Embed {
  static constexpr int kThreads = 256;
  struct Shared {};

  const TokenState* states = nullptr;  // [tokens]
  TableView embedding, positions;      // positions: nothing in it when the model has no such table
  bool has_positions = false;
  int position_offset = 0;  // the row that position 0 takes
  int tokens = 0;
  int width = 0;
  float* x = nullptr;  // [tokens, width]

  Grid grid() const {
    return {.x = static_cast<unsigned>(divide_up(width, kThreads)), .y = static_cast<unsigned>(tokens)};
  }

  template <typename Block>
  SCALEBITS_HD void run(Block& block, Shared&) const {
    const TokenState state = states[block.y];
    float* const to = x + std::int64_t{block.y} * width;
    take(block, embedding, state.id, to, false);
    if (has_positions) take(block, positions, position_offset + state.position, to, true);
  }

 private:
  template <typename Block>
  SCALEBITS_HD void take(Block& block, const TableView& table, std::int64_t row, float* to, bool adds) const {
    block.each([&](int thread) {
      const int stored = block.x * kThreads + thread;
      if (stored >= width) return;
      const int i =
          table.dense == nullptr && table.input_order != nullptr ? static_cast<int>(table.input_order[stored]) : stored;
      const float value =
          table.dense != nullptr
              ? element_at(table.dense, table.type, row * width + i)
              : stream_weight(table.packed, 0, table.stored_row != nullptr ? table.stored_row[row] : row, stored);
      to[i] = adds ? to[i] + value : value;
    });
  }
};

}  // namespace scalebits::cuda
