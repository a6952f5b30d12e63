// A packed matrix: making its blob from codes, and reading values back. Rows and columns are in stored order here; the
// permutation tables belong to the artifact. These scalar readers are the oracle of every kernel.
#pragma once

#include "format/matrix_layout.h"
#include "format/side_table.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

/// The codes of one strip (16 rows of a block), unpacked. Entries beyond the strip's tiles and groups are not used.
struct Strip {
  /// Of the weight in row r, input c of the strip.
  std::array<std::array<std::uint8_t, kMaxBlockCols>, kTileRows> codes{};
  /// [group column, row].
  std::array<std::array<std::uint8_t, kTileRows>, kMaxBlockCols / 32> scale_codes{}, zero_codes{};
};

/// Fills the codes of rows 16·tile_row … and inputs block_cols·block_col …; called concurrently, only for widths above
/// 0, with a strip of zeros. What it writes beyond the matrix is ignored.
using StripSource = std::function<void(std::int64_t tile_row, std::int64_t block_col, int width, Strip& strip)>;

/// Writes the whole blob, packed_bytes(format, widths) long; parallel over stripes, the same bytes whatever the number
/// of threads. Throws Error(bad_input) for invalid formats or widths, InternalError when a code exceeds its field.
void pack_matrix(const MatrixFormat& format, std::span<const std::uint8_t> widths, const StripSource& source,
                 std::span<std::byte> out);

/// A read-only view of a blob, usually inside a mapped file; the caller keeps the bytes alive.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// Reads and checks the tags and the size of the blob; throws Error(bad_input) naming `where`. Any blob that passes
  /// can be read without leaving its bounds.
  PackedMatrix(const MatrixFormat& format, std::span<const std::byte> blob, const std::string& where);

  const MatrixFormat& format() const { return layout_.format(); }
  const MatrixLayout& layout() const { return layout_; }
  std::span<const std::uint8_t> widths() const { return layout_.widths(); }
  std::span<const std::byte> blob() const { return blob_; }

  /// The strip's codes; a dropped one is all zeros.
  void decode_strip(std::int64_t tile_row, std::int64_t block_col, Strip& strip) const;

  /// Rows [first, first + count) as f32 to `out`, row-major [count, cols]; serial. One row decodes one row.
  void dequantize_rows(std::int64_t first, std::int64_t count, std::span<float> out) const;
  /// The whole matrix, parallel.
  void dequantize(std::span<float> out) const;
  std::vector<float> dequantize() const;

 private:
  MatrixLayout layout_;
  std::span<const std::byte> blob_;
  SideTable side_;
};

}  // namespace scalebits
