// The packed_i8 product in plain C++, by the format's own decoder: slow, and the oracle of all others.
#include "kernels/cpu/packed_i8.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace scalebits {

void run_packed_i8_scalar(const PackedTask& task) {
  const PackedWeights& weights = *task.weights;
  const MatrixFormat& format = weights.format();
  const Activations& x = *task.x;
  Strip strip;
  std::vector<std::array<float, kTileRows>> sums(static_cast<std::size_t>(x.rows));
  for (std::int64_t tile_row = task.first_tile_row; tile_row < task.last_tile_row; ++tile_row) {
    for (auto& row : sums) row.fill(0);
    for (std::int64_t col = 0; col < format.block_col_count(); ++col) {
      const StripLocation location = weights.matrix().layout().strip(tile_row, col);
      if (location.width == 0) continue;
      weights.matrix().decode_strip(tile_row, col, strip);
      const std::int64_t first = col * format.block_cols;
      for (int in_strip = 0; in_strip < location.tiles * kTileCols; in_strip += x.group) {
        const auto group = static_cast<std::size_t>(in_strip / format.group_cols);
        for (std::int64_t i = 0; i < x.rows; ++i) {
          const std::int8_t* values = x.i8.data() + i * x.cols + first + in_strip;
          const float* scales = x.scales.data() + (i * x.groups() + (first + in_strip) / x.group) * 2;
          for (std::size_t row = 0; row < kTileRows; ++row) {
            std::int32_t dot = 0;
            for (int k = 0; k < x.group; ++k)
              dot += strip.codes[row][static_cast<std::size_t>(in_strip + k)] * values[k];
            const float zero = weights.side().zero(strip.zero_codes[group][row], location.width),
                        scale = weights.side().scale(strip.scale_codes[group][row], location.width);
            float& sum = sums[static_cast<std::size_t>(i)][row];
            sum = std::fma(std::fma(-zero, scales[1], static_cast<float>(dot)), scale * scales[0], sum);
          }
        }
      }
    }
    const std::int64_t first_row = tile_row * kTileRows,
                       count = std::min<std::int64_t>(kTileRows, format.rows - first_row);
    for (std::int64_t i = 0; i < x.rows; ++i)
      std::copy_n(sums[static_cast<std::size_t>(i)].data(), count, task.y + i * task.y_stride + first_row);
  }
}

}  // namespace scalebits
