// The inputs of a product, n rows (tokens), gathered into the stored order of the matrices that read them and padded
// with zeros to whole tiles of 64. Either 8-bit, with a scale for every group of 32 or 64 inputs, or f32 as they are.
// The 8-bit rule, the same bits on every instruction set: scale = max|x| / 127, value = x · (127 / max|x|) rounded to
// the nearest even integer (both 0 where all x are 0), sum = Σ value, an exact integer stored as f32.
// A group with an x that is not finite has scale NaN and values 0: every result that reads it is NaN.
#pragma once

#include "core/aligned_buffer.h"

#include <cstdint>

namespace scalebits {

enum class ActivationFormat { i8, f32 };

struct Activations {
  ActivationFormat format = ActivationFormat::i8;
  std::int64_t rows = 0;
  std::int64_t cols = 0;          // padded: a multiple of 64
  int group = 64;                 // of i8: 32 or 64 inputs
  AlignedBuffer<std::int8_t> i8;  // [rows, cols]
  AlignedBuffer<float> scales;    // of i8: [rows, cols / group, 2], scale and sum of each group
  AlignedBuffer<float> f32;       // [rows, cols]

  std::int64_t groups() const { return cols / group; }  // of a row

  /// body(row, group) for groups [first, last), counted row by row.
  template <typename Body>
  void for_groups(std::int64_t first, std::int64_t last, const Body& body) const {
    std::int64_t row = first / groups(), in_row = first % groups();
    for (std::int64_t at = first; at < last; ++at) {
      body(row, in_row);
      if (++in_row == groups()) ++row, in_row = 0;
    }
  }
  /// Sets all sizes and makes room.
  void resize(ActivationFormat wanted, std::int64_t n, std::int64_t inputs, int group_size);
};

}  // namespace scalebits
