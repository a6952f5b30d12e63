// The weights of one matrix as kernels read them: a view of a packed blob, usually in the mapped file, or of a dense
// tensor. The caller keeps the bytes alive.
#pragma once

#include "core/float_types.h"
#include "format/packed_matrix.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

/// Where the 16 codes of a bit stream of side information lie, for byte shuffles: the (at most two) bytes of code i,
/// which begin 32-bit lane i, and the shift that brings it down.
struct SideStream {
  explicit SideStream(int bits);
  int bits;
  alignas(64) std::uint8_t bytes[64];  // 0x80: none
  alignas(64) std::uint32_t shifts[16];
  alignas(64) std::uint32_t masks[16];  // of the code, in each lane
};

/// Ends a stripe's widths.
inline constexpr std::uint8_t kNoWidth = 9;

/// A packed matrix with its widths in the order of the file, so that a kernel reads codes, side information and widths
/// each in one stream. `row_order`, `input_order`: as in ArtifactMatrix; empty: identity.
class PackedWeights {
 public:
  PackedWeights(PackedMatrix matrix, std::span<const std::uint32_t> row_order,
                std::span<const std::uint32_t> input_order);

  const PackedMatrix& matrix() const { return matrix_; }
  const MatrixFormat& format() const { return matrix_.format(); }
  const SideTable& side() const { return side_; }
  const SideStream& scale_stream() const { return scale_stream_; }
  const SideStream& zero_stream() const { return zero_stream_; }
  std::span<const std::uint32_t> row_order() const { return row_order_; }
  std::span<const std::uint32_t> input_order() const { return input_order_; }
  /// Inputs that share a scale of the 8-bit activations: the group's, at most a tile's. 32 or 64.
  int activation_group() const { return std::min(format().group_cols, kTileCols); }

  /// Of the stripe's strips: block column by block column; in it, strip by strip from top to bottom; then kNoWidth.
  const std::uint8_t* stripe_widths(std::int64_t stripe) const { return strip_widths_.data() + first_strip(stripe); }
  const std::byte* stripe_side(std::int64_t stripe) const {
    return matrix_.blob().data() + matrix_.layout().stripe_offset(stripe);
  }
  const std::byte* stripe_codes(std::int64_t stripe) const {
    return matrix_.blob().data() + matrix_.layout().stripe_codes_offset(stripe);
  }
  /// Bytes read for all rows before each tile row, and for all rows: how work is shared out.
  std::span<const std::uint64_t> bytes_before() const { return bytes_before_; }

 private:
  std::int64_t first_strip(std::int64_t stripe) const {
    return stripe * (format().block_col_count() * (format().stripe_rows() / kTileRows) + 1);
  }

  PackedMatrix matrix_;
  SideTable side_;
  SideStream scale_stream_, zero_stream_;
  std::span<const std::uint32_t> row_order_, input_order_;
  std::vector<std::uint8_t> strip_widths_;
  std::vector<std::uint64_t> bytes_before_;
};

/// [rows, cols], row-major.
struct DenseWeights {
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::span<const std::byte> bytes;
};

}  // namespace scalebits
