// Random packed matrices without the format room or any library, for programs that tools/gpu_check builds on a machine
// that has nothing but a compiler and a CUDA toolkit. Any bytes are a valid blob of the right length, so bytes are
// drawn; padding is random, too: nobody may read it.
#pragma once

#include "kernels/cuda/engine.h"

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace scalebits::cuda {

/// splitmix64.
struct Draw {
  explicit Draw(std::uint64_t seed) : state(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(n)); }
  /// In [-1, 1).
  float real() { return static_cast<float>(below(1 << 24)) * 0x1p-23f - 1; }
  std::vector<std::uint32_t> permutation(std::int64_t n) {
    std::vector<std::uint32_t> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), 0u);
    for (std::int64_t i = n - 1; i > 0; --i)
      std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(below(i + 1))]);
    return order;
  }
  std::uint64_t state;
};

struct OwnedMatrix {
  StoredShape shape;
  std::vector<std::uint8_t> widths;
  std::vector<std::byte> blob;
  std::vector<std::uint32_t> row_order, input_order;  // empty: identity
  StoredMatrix view() const { return {shape, widths, blob, row_order, input_order}; }
};

inline std::size_t block_count(const StoredShape& shape) {
  const auto divide = [](std::int64_t value, std::int64_t by) { return (value + by - 1) / by; };
  return static_cast<std::size_t>(divide(shape.rows, shape.block_rows) * divide(shape.cols, shape.block_cols));
}

/// Weights of a few hundredths, as models have them.
inline StoredShape usual_shape(std::int64_t rows, std::int64_t cols) {
  return {.rows = rows, .cols = cols, .scale_bits = 6, .zero_bits = 4, .scale_base = 0.02f, .scale_step_log2 = 0.06f};
}

inline StoredShape random_shape(Draw& draw, std::int64_t rows, std::int64_t cols) {
  StoredShape shape = usual_shape(rows, cols);
  shape.block_rows = 16 << draw.below(4);
  shape.block_cols = 64 << draw.below(2);
  shape.group_cols = 32 << draw.below(shape.block_cols == 64 ? 2 : 3);
  shape.scale_bits = static_cast<int>(4 + draw.below(5));
  shape.zero_bits = static_cast<int>(draw.below(9));
  return shape;
}

inline OwnedMatrix random_matrix(Draw& draw, const StoredShape& shape, std::vector<std::uint8_t> widths,
                                 bool ordered_rows, bool ordered_inputs) {
  OwnedMatrix matrix;
  matrix.shape = shape;
  matrix.widths = std::move(widths);
  matrix.blob.resize(find_stored_tiles(shape, matrix.widths).blob_bytes);
  for (std::size_t at = 0; at < matrix.blob.size(); at += 8) {  // blobs are multiples of 64 bytes
    const std::uint64_t bits = draw.next();
    std::memcpy(matrix.blob.data() + at, &bits, 8);
  }
  if (ordered_rows) matrix.row_order = draw.permutation(shape.rows);
  if (ordered_inputs) matrix.input_order = draw.permutation(shape.cols);
  return matrix;
}

inline std::vector<std::uint8_t> random_widths(Draw& draw, const StoredShape& shape) {
  std::vector<std::uint8_t> widths(block_count(shape));
  for (std::uint8_t& width : widths) width = static_cast<std::uint8_t>(draw.below(9));
  return widths;
}

}  // namespace scalebits::cuda
