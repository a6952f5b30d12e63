#include "format/matrix_format.h"

#include <initializer_list>

namespace scalebits {
namespace {

constexpr std::int64_t kMaxDimension = std::int64_t{1} << 28;

void require_one_of(std::int64_t value, std::initializer_list<int> allowed, const char* name,
                    const std::string& where) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  std::string list;
  for (const int choice : allowed) list += (list.empty() ? "" : ", ") + std::to_string(choice);
  fail_input("{}: {} must be one of {}, found {}", where, name, list, value);
}

}  // namespace

void validate(const MatrixFormat& format, const std::string& where) {
  for (const auto& [name, extent] : {std::pair{"rows", format.rows}, std::pair{"cols", format.cols}})
    if (extent < 1 || extent > kMaxDimension)
      fail_input("{}: {} must be 1 to {}, found {}", where, name, kMaxDimension, extent);
  require_one_of(format.block_rows, {16, 32, 64, 128}, "block_rows", where);
  require_one_of(format.block_cols, {64, 128}, "block_cols", where);
  require_one_of(format.group_cols, {32, 64, 128}, "group_cols", where);
  if (format.block_cols % format.group_cols != 0)
    fail_input("{}: block_cols ({}) must be a multiple of group_cols ({})", where, format.block_cols,
               format.group_cols);
  validate(format.side, where);
}

BlockBytes block_bytes(const MatrixFormat& format, std::int64_t block_row, std::int64_t block_col, int width) {
  if (width == 0) return {};
  const auto strips = static_cast<std::uint64_t>(
      divide_up(std::min<std::int64_t>(format.block_rows, format.rows - block_row * format.block_rows), kTileRows));
  return {.codes = strips * static_cast<std::uint64_t>(format.strip_tiles(block_col)) * tile_bytes(width),
          .side = strips * static_cast<std::uint64_t>(format.strip_groups(block_col) * format.group_side_bytes())};
}

PackedBytes packed_bytes_by_kind(const MatrixFormat& format, std::span<const std::uint8_t> widths) {
  SCALEBITS_ASSERT(static_cast<std::int64_t>(widths.size()) == format.block_count());
  PackedBytes bytes{.tags = format.tag_bytes()};
  const std::int64_t blocks_per_stripe = format.stripe_rows() / format.block_rows;
  for (std::int64_t stripe = 0; stripe < format.stripe_count(); ++stripe) {
    std::uint64_t side = 0;
    for (std::int64_t i = 0; i < format.stripe_block_rows(stripe); ++i) {
      const std::int64_t block_row = stripe * blocks_per_stripe + i;
      for (std::int64_t block_col = 0; block_col < format.block_col_count(); ++block_col) {
        const int width = widths[static_cast<std::size_t>(format.block_index(block_row, block_col))];
        const BlockBytes block = block_bytes(format, block_row, block_col, width);
        bytes.codes += block.codes;
        side += block.side;
      }
    }
    bytes.side += align_up(side);
  }
  return bytes;
}

std::uint64_t packed_bytes(const MatrixFormat& format, std::span<const std::uint8_t> widths) {
  return packed_bytes_by_kind(format, widths).total();
}

Json to_json(const MatrixFormat& format) {
  return {{"rows", format.rows},
          {"cols", format.cols},
          {"block", {format.block_rows, format.block_cols}},
          {"group", format.group_cols},
          {"side", to_json(format.side)}};
}

MatrixFormat matrix_format_from_json(const Json& json, const std::string& where) {
  MatrixFormat format;
  format.rows = json_value<std::int64_t>(json, "rows", where);
  format.cols = json_value<std::int64_t>(json, "cols", where);
  const auto block = json_value<std::vector<std::int64_t>>(json, "block", where);
  if (block.size() != 2) fail_input("{}: block must be [rows, cols]", where);
  const auto small = [](std::int64_t value) { return static_cast<int>(std::clamp<std::int64_t>(value, -1, 1 << 20)); };
  format.block_rows = small(block[0]);
  format.block_cols = small(block[1]);
  format.group_cols = small(json_value<std::int64_t>(json, "group", where));
  format.side = side_format_from_json(json_value<Json>(json, "side", where), where);
  validate(format, where);
  return format;
}

}  // namespace scalebits
