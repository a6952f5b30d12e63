// Where everything lies in a packed blob: derived from the format and the widths by prefix sums, never stored.
#pragma once

#include "format/matrix_format.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

/// One strip: 16 rows of one block. Offsets are bytes from the start of the blob. Width 0: nothing is stored.
struct StripLocation {
  int width = 0;
  int tiles = 0;                   // stored at codes_offset + t · tile_bytes(width)
  int groups = 0;                  // stored at side_offset + g · group_side_bytes()
  std::uint64_t codes_offset = 0;  // multiple of 64
  std::uint64_t side_offset = 0;
};

class MatrixLayout {
 public:
  MatrixLayout() = default;
  /// `format` must be valid. Throws Error(bad_input) naming `where` unless there is one width of 0 to 8 per block.
  MatrixLayout(const MatrixFormat& format, std::vector<std::uint8_t> widths, const std::string& where);

  const MatrixFormat& format() const { return format_; }
  /// Row-major by (block row, block column).
  std::span<const std::uint8_t> widths() const { return widths_; }
  /// Of the blob: packed_bytes(format, widths).
  std::uint64_t bytes() const { return stripe_offsets_.back(); }

  /// Stripe s lies in [stripe_offset(s), stripe_offset(s + 1)); its codes start at stripe_codes_offset(s).
  std::uint64_t stripe_offset(std::int64_t stripe) const { return stripe_offsets_[static_cast<std::size_t>(stripe)]; }
  std::uint64_t stripe_codes_offset(std::int64_t stripe) const {
    return stripe_offset(stripe) +
           kAlignment * columns_[static_cast<std::size_t>(stripe * format_.block_col_count())].codes;
  }
  /// Rows 16·tile_row … of block column `block_col`; constant time.
  StripLocation strip(std::int64_t tile_row, std::int64_t block_col) const;

 private:
  /// Start of a block column inside its stripe, relative to the stripe.
  struct Column {
    std::uint32_t codes;  // in units of 64 bytes
    std::uint32_t side;   // in bytes
  };
  MatrixFormat format_;
  std::vector<std::uint8_t> widths_;
  std::vector<std::uint64_t> stripe_offsets_;  // one more than there are stripes
  std::vector<Column> columns_;                // [stripe, block column]
};

/// The tags: 4 bits per block, low nibble first, ordered by stripe, then block column, then block row inside the
/// stripe. `out` has format.tag_bytes(); its padding is zero.
void encode_tags(const MatrixFormat& format, std::span<const std::uint8_t> widths, std::span<std::byte> out);
/// Row-major widths; throws Error(bad_input) naming `where` and the block whose tag is above 8.
std::vector<std::uint8_t> decode_tags(const MatrixFormat& format, std::span<const std::byte> tags,
                                      const std::string& where);

}  // namespace scalebits
