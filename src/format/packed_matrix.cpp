#include "format/packed_matrix.h"

#include "core/parallel.h"

namespace scalebits {
namespace {

std::span<const std::byte> tile_of(std::span<const std::byte> blob, const StripLocation& at, int tile) {
  return blob.subspan(at.codes_offset + static_cast<std::uint64_t>(tile) * tile_bytes(at.width), tile_bytes(at.width));
}

struct SideStreams {
  std::span<const std::byte> scales, zeros;
};

SideStreams side_of(const MatrixFormat& format, std::span<const std::byte> blob, const StripLocation& at, int group) {
  const auto bytes = static_cast<std::size_t>(format.group_side_bytes());
  const auto scale_bytes = static_cast<std::size_t>(2 * format.side.scale_bits);
  const auto entry = blob.subspan(at.side_offset + static_cast<std::size_t>(group) * bytes, bytes);
  return {entry.first(scale_bytes), entry.subspan(scale_bytes)};
}

/// Zeroes what lies beyond the matrix, so that equal matrices have equal bytes, and checks that codes fit.
void tidy(const MatrixFormat& format, std::int64_t tile_row, std::int64_t block_col, const StripLocation& at,
          Strip& strip) {
  const auto rows = static_cast<std::size_t>(std::min<std::int64_t>(kTileRows, format.rows - tile_row * kTileRows));
  const auto cols =
      static_cast<std::size_t>(std::min<std::int64_t>(format.block_cols, format.cols - block_col * format.block_cols));
  std::uint32_t used = 0;
  for (std::size_t row = 0; row < kTileRows; ++row) {
    auto& codes = strip.codes[row];
    std::fill(codes.begin() + (row < rows ? cols : 0), codes.end(), std::uint8_t{0});
    for (const std::uint8_t code : codes) used |= code;
  }
  SCALEBITS_ASSERT(used >> at.width == 0);
  const auto groups = static_cast<std::size_t>(divide_up(static_cast<std::int64_t>(cols), format.group_cols));
  for (auto* side : {&strip.scale_codes, &strip.zero_codes})
    for (std::size_t group = 0; group < side->size(); ++group) {
      auto& codes = (*side)[group];
      std::fill(codes.begin() + (group < groups ? rows : 0), codes.end(), std::uint8_t{0});
    }
}

void write_strip(const MatrixFormat& format, const StripLocation& at, const Strip& strip, std::span<std::byte> blob) {
  std::array<std::uint8_t, kTileValues> tile;
  for (int t = 0; t < at.tiles; ++t) {
    for (std::size_t row = 0; row < kTileRows; ++row)
      std::copy_n(strip.codes[row].begin() + t * kTileCols, kTileCols,
                  tile.begin() + static_cast<std::ptrdiff_t>(row) * kTileCols);
    encode_tile(
        at.width, tile,
        blob.subspan(at.codes_offset + static_cast<std::uint64_t>(t) * tile_bytes(at.width), tile_bytes(at.width)));
  }
  const auto scale_bytes = static_cast<std::size_t>(2 * format.side.scale_bits);
  const auto zero_bytes = static_cast<std::size_t>(2 * format.side.zero_bits);
  for (std::size_t group = 0; group < static_cast<std::size_t>(at.groups); ++group) {
    const auto entry = blob.subspan(at.side_offset + group * (scale_bytes + zero_bytes), scale_bytes + zero_bytes);
    encode_side_codes(format.side.scale_bits, strip.scale_codes[group], entry.first(scale_bytes));
    if (zero_bytes > 0) encode_side_codes(format.side.zero_bits, strip.zero_codes[group], entry.subspan(scale_bytes));
  }
}

/// out[i] = scale · (codes[i] − zero).
void dequantize_run(const std::uint8_t* codes, int count, float scale, float zero, float* out) {
  for (int i = 0; i < count; ++i) out[i] = scale * (static_cast<float>(codes[i]) - zero);
}

}  // namespace

void pack_matrix(const MatrixFormat& format, std::span<const std::uint8_t> widths, const StripSource& source,
                 std::span<std::byte> out) {
  validate(format, "pack_matrix");
  const MatrixLayout layout(format, {widths.begin(), widths.end()}, "pack_matrix");
  SCALEBITS_ASSERT(out.size() == layout.bytes());
  encode_tags(format, widths, out.first(format.tag_bytes()));
  parallel_for(format.stripe_count(), [&](std::int64_t stripe) {
    const auto section =
        out.subspan(layout.stripe_offset(stripe), layout.stripe_codes_offset(stripe) - layout.stripe_offset(stripe));
    std::fill(section.begin(), section.end(), std::byte{0});
    const std::int64_t first = stripe * (format.stripe_rows() / kTileRows);
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col)
      for (std::int64_t tile_row = first; tile_row < first + format.stripe_tile_rows(stripe); ++tile_row) {
        const StripLocation at = layout.strip(tile_row, block_col);
        if (at.width == 0) continue;
        Strip strip;
        source(tile_row, block_col, at.width, strip);
        tidy(format, tile_row, block_col, at, strip);
        write_strip(format, at, strip, out);
      }
  });
}

PackedMatrix::PackedMatrix(const MatrixFormat& format, std::span<const std::byte> blob, const std::string& where)
    : blob_(blob) {
  validate(format, where);
  layout_ = MatrixLayout(format, decode_tags(format, blob, where), where);
  if (blob.size() != layout_.bytes())
    fail_input("{}: wanted {} bytes by its tags, found {}", where, layout_.bytes(), blob.size());
  side_ = SideTable(format.side);
}

void PackedMatrix::decode_strip(std::int64_t tile_row, std::int64_t block_col, Strip& strip) const {
  const StripLocation at = layout_.strip(tile_row, block_col);
  strip = {};
  if (at.width == 0) return;
  std::array<std::uint8_t, kTileValues> tile;
  for (int t = 0; t < at.tiles; ++t) {
    decode_tile(at.width, tile_of(blob_, at, t), tile);
    for (std::size_t row = 0; row < kTileRows; ++row)
      std::copy_n(tile.begin() + static_cast<std::ptrdiff_t>(row) * kTileCols, kTileCols,
                  strip.codes[row].begin() + t * kTileCols);
  }
  for (int group = 0; group < at.groups; ++group) {
    const SideStreams side = side_of(format(), blob_, at, group);
    decode_side_codes(format().side.scale_bits, side.scales, strip.scale_codes[static_cast<std::size_t>(group)]);
    decode_side_codes(format().side.zero_bits, side.zeros, strip.zero_codes[static_cast<std::size_t>(group)]);
  }
}

void PackedMatrix::dequantize_rows(std::int64_t first, std::int64_t count, std::span<float> out) const {
  const MatrixFormat& format = this->format();
  SCALEBITS_ASSERT(first >= 0 && count >= 0 && first + count <= format.rows);
  SCALEBITS_ASSERT(static_cast<std::int64_t>(out.size()) == count * format.cols);
  std::array<std::uint8_t, kTileValues> codes;
  for (std::int64_t tile_row = first / kTileRows; tile_row * kTileRows < first + count; ++tile_row) {
    const std::int64_t tile_first = tile_row * kTileRows;
    const int row_begin = static_cast<int>(std::max<std::int64_t>(0, first - tile_first));
    const int row_end = static_cast<int>(std::min<std::int64_t>(kTileRows, first + count - tile_first));
    for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
      const StripLocation at = layout_.strip(tile_row, block_col);
      const std::int64_t strip_first = block_col * format.block_cols;
      const int strip_cols = static_cast<int>(std::min<std::int64_t>(format.block_cols, format.cols - strip_first));
      for (int col = 0; col < strip_cols; col += kTileCols) {
        const int tile_cols = std::min(kTileCols, strip_cols - col);
        if (at.width > 0) {
          const auto tile = tile_of(blob_, at, col / kTileCols);
          if (row_end - row_begin == 1)
            decode_tile_row(at.width, tile, row_begin,
                            std::span<std::uint8_t, kTileCols>(codes.data() + row_begin * kTileCols, kTileCols));
          else
            decode_tile(at.width, tile, codes);
        }
        const int run = std::min(kTileCols, format.group_cols);  // inputs of the tile under one scale
        for (int run_first = 0; run_first < tile_cols; run_first += run) {
          const int run_cols = std::min(run, tile_cols - run_first);
          const SideStreams side =
              at.width > 0 ? side_of(format, blob_, at, (col + run_first) / format.group_cols) : SideStreams{};
          for (int row = row_begin; row < row_end; ++row) {
            float* values = out.data() + (tile_first + row - first) * format.cols + strip_first + col + run_first;
            if (at.width == 0) {
              std::fill_n(values, run_cols, 0.0f);
              continue;
            }
            const float scale = side_.scale(decode_side_code(format.side.scale_bits, side.scales, row), at.width);
            const float zero = side_.zero(decode_side_code(format.side.zero_bits, side.zeros, row), at.width);
            dequantize_run(codes.data() + row * kTileCols + run_first, run_cols, scale, zero, values);
          }
        }
      }
    }
  }
}

void PackedMatrix::dequantize(std::span<float> out) const {
  const MatrixFormat& format = this->format();
  SCALEBITS_ASSERT(static_cast<std::int64_t>(out.size()) == format.rows * format.cols);
  parallel_for(format.tile_row_count(), [&](std::int64_t tile_row) {
    const std::int64_t first = tile_row * kTileRows;
    const std::int64_t count = std::min<std::int64_t>(kTileRows, format.rows - first);
    dequantize_rows(
        first, count,
        out.subspan(static_cast<std::size_t>(first * format.cols), static_cast<std::size_t>(count * format.cols)));
  });
}

std::vector<float> PackedMatrix::dequantize() const {
  std::vector<float> values(static_cast<std::size_t>(format().rows * format().cols));
  dequantize(values);
  return values;
}

}  // namespace scalebits
