// In place of src/kernels/cuda/instructions.cuh where kernels run on the CPU (cuda_threads.h).
#pragma once

#include "cuda_threads.h"
#include "kernels/cuda/half.h"

#define SCALEBITS_HAS_THREADS 1

namespace scalebits::cuda {

inline void let_next_begin() {}  // they begin at once
inline void wait_for_earlier() { threads::wait_for_earlier(); }
inline std::uint8_t* shared_memory() { return threads::shared_memory(); }
inline void copy_async(void* shared, const void* global) { threads::copy_async(shared, global); }
inline void close_group() { threads::close_group(); }
template <int newest>
void wait_groups() {
  threads::wait_groups(newest);
}

struct MmaOperands {
  float* c;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

/// mma.m16n8k16, as PTX says which lane holds what. Sums in f64, rounded to f32 once.
inline void multiply_add(float (&c)[4], const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1) {
  const MmaOperands mine{c, a, {b0, b1}};
  threads::operands()[threads::lane()] = &mine;
  threads::wait_for_warp("mma.sync", [] {
    const auto lane_of = [](int lane) -> const MmaOperands& {
      return *static_cast<const MmaOperands*>(threads::operands()[lane]);
    };
    const auto half_of = [](std::uint32_t word, int second) {
      return static_cast<double>(half_to_float(static_cast<std::uint16_t>(word >> (16 * second))));
    };
    double a_of[16][16], b_of[8][16];  // [row][input], [token][input]
    for (int lane = 0; lane < kLanes; ++lane)
      for (int second = 0; second < 2; ++second) {
        const int group = lane / 4, input = lane % 4 * 2 + second;
        for (int r = 0; r < 4; ++r)
          a_of[group + 8 * (r % 2)][input + 8 * (r / 2)] = half_of(lane_of(lane).a[r], second);
        for (int r = 0; r < 2; ++r) b_of[group][input + 8 * r] = half_of(lane_of(lane).b[r], second);
      }
    for (int lane = 0; lane < kLanes; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), token = lane % 4 * 2 + i % 2;
        double sum = lane_of(lane).c[i];
        for (int input = 0; input < 16; ++input) sum += a_of[row][input] * b_of[token][input];
        lane_of(lane).c[i] = static_cast<float>(sum);
      }
  });
}

struct MatrixRow {
  const std::uint16_t* row;
  std::uint32_t* to;
};

/// ldmatrix.x4.trans
inline void load_transposed(std::uint32_t (&to)[4], const void* row) {
  threads::require_aligned(row, 16);
  const MatrixRow mine{static_cast<const std::uint16_t*>(row), to};
  threads::operands()[threads::lane()] = &mine;
  threads::wait_for_warp("ldmatrix", [] {
    const auto lane_of = [](int lane) { return *static_cast<const MatrixRow*>(threads::operands()[lane]); };
    for (int lane = 0; lane < kLanes; ++lane)
      for (int i = 0; i < 4; ++i) {
        const int first = 8 * i + lane % 4 * 2, column = lane / 4;
        lane_of(lane).to[i] = lane_of(first).row[column] | std::uint32_t{lane_of(first + 1).row[column]} << 16;
      }
  });
}

}  // namespace scalebits::cuda
