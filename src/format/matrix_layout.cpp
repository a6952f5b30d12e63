#include "format/matrix_layout.h"

namespace scalebits {
namespace {

/// Calls body(tag index, block index) for each block, in the order of the tags.
template <typename Body>
void for_each_tag(const MatrixFormat& format, const Body& body) {
  const std::int64_t blocks_per_stripe = format.stripe_rows() / format.block_rows;
  std::int64_t tag = 0;
  for (std::int64_t stripe = 0; stripe < format.stripe_count(); ++stripe)
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col)
      for (std::int64_t i = 0; i < format.stripe_block_rows(stripe); ++i)
        body(tag++, format.block_index(stripe * blocks_per_stripe + i, block_col));
}

}  // namespace

MatrixLayout::MatrixLayout(const MatrixFormat& format, std::vector<std::uint8_t> widths, const std::string& where)
    : format_(format), widths_(std::move(widths)) {
  if (static_cast<std::int64_t>(widths_.size()) != format.block_count())
    fail_input("{}: wanted {} block widths, found {}", where, format.block_count(), widths_.size());
  for (const std::uint8_t width : widths_)
    if (width > kMaxWidth) fail_input("{}: block widths must be 0 to {}, found {}", where, kMaxWidth, width);

  const std::int64_t blocks_per_stripe = format.stripe_rows() / format.block_rows;
  stripe_offsets_.reserve(static_cast<std::size_t>(format.stripe_count()) + 1);
  stripe_offsets_.push_back(format.tag_bytes());
  columns_.reserve(static_cast<std::size_t>(format.stripe_count() * format.block_col_count()));
  for (std::int64_t stripe = 0; stripe < format.stripe_count(); ++stripe) {
    const std::size_t first_column = columns_.size();
    BlockBytes sum;
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
      columns_.push_back(
          {.codes = static_cast<std::uint32_t>(sum.codes / kAlignment), .side = static_cast<std::uint32_t>(sum.side)});
      for (std::int64_t i = 0; i < format.stripe_block_rows(stripe); ++i) {
        const std::int64_t block_row = stripe * blocks_per_stripe + i;
        const int width = widths_[static_cast<std::size_t>(format.block_index(block_row, block_col))];
        const BlockBytes block = block_bytes(format, block_row, block_col, width);
        sum.codes += block.codes;
        sum.side += block.side;
      }
    }
    const std::uint64_t side = align_up(sum.side);
    for (std::size_t i = first_column; i < columns_.size(); ++i)
      columns_[i].codes += static_cast<std::uint32_t>(side / kAlignment);
    stripe_offsets_.push_back(stripe_offsets_.back() + side + sum.codes);
  }
}

StripLocation MatrixLayout::strip(std::int64_t tile_row, std::int64_t block_col) const {
  const std::int64_t stripe = tile_row * kTileRows / format_.stripe_rows();
  const std::int64_t block_row = tile_row * kTileRows / format_.block_rows;
  const Column& column = columns_[static_cast<std::size_t>(stripe * format_.block_col_count() + block_col)];
  StripLocation strip{.width = widths_[static_cast<std::size_t>(format_.block_index(block_row, block_col))],
                      .tiles = format_.strip_tiles(block_col),
                      .groups = format_.strip_groups(block_col),
                      .codes_offset = stripe_offset(stripe) + kAlignment * column.codes,
                      .side_offset = stripe_offset(stripe) + column.side};
  // The blocks above in the stripe are whole; at most 8 of them.
  for (std::int64_t above = stripe * format_.stripe_rows() / format_.block_rows; above < block_row; ++above) {
    const int width = widths_[static_cast<std::size_t>(format_.block_index(above, block_col))];
    const BlockBytes block = block_bytes(format_, above, block_col, width);
    strip.codes_offset += block.codes;
    strip.side_offset += block.side;
  }
  if (strip.width > 0) {
    const auto strips_above = static_cast<std::uint64_t>(tile_row - block_row * format_.block_rows / kTileRows);
    strip.codes_offset += strips_above * static_cast<std::uint64_t>(strip.tiles) * tile_bytes(strip.width);
    strip.side_offset += strips_above * static_cast<std::uint64_t>(strip.groups * format_.group_side_bytes());
  }
  return strip;
}

void encode_tags(const MatrixFormat& format, std::span<const std::uint8_t> widths, std::span<std::byte> out) {
  SCALEBITS_ASSERT(out.size() == format.tag_bytes() &&
                   static_cast<std::int64_t>(widths.size()) == format.block_count());
  std::fill(out.begin(), out.end(), std::byte{0});
  for_each_tag(format, [&](std::int64_t tag, std::int64_t block) {
    out[static_cast<std::size_t>(tag / 2)] |=
        static_cast<std::byte>(widths[static_cast<std::size_t>(block)] << (tag % 2 * 4));
  });
}

std::vector<std::uint8_t> decode_tags(const MatrixFormat& format, std::span<const std::byte> tags,
                                      const std::string& where) {
  if (tags.size() < format.tag_bytes())
    fail_input("{}: wanted {} bytes of tags, found {}", where, format.tag_bytes(), tags.size());
  std::vector<std::uint8_t> widths(static_cast<std::size_t>(format.block_count()));
  for_each_tag(format, [&](std::int64_t tag, std::int64_t block) {
    const int width = std::to_integer<int>(tags[static_cast<std::size_t>(tag / 2)] >> (tag % 2 * 4)) & 15;
    if (width > kMaxWidth)
      fail_input("{}: the tag of block row {}, column {} must be 0 to {}, found {}", where,
                 block / format.block_col_count(), block % format.block_col_count(), kMaxWidth, width);
    widths[static_cast<std::size_t>(block)] = static_cast<std::uint8_t>(width);
  });
  return widths;
}

}  // namespace scalebits
