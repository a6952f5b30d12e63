// Fake quantisation in tensor operations: the host's arithmetic step by step, each step rounded to f32 as there.
#include "graph/tensor_arithmetic.h"
#include "train/tensor_train_arithmetic.h"

#include <ATen/ATen.h>

#include <limits>

namespace scalebits::tensors {
namespace {

constexpr std::int64_t kWord = 0xffffffff;

/// The powers of two in positive numbers.
at::Tensor binade_of(const at::Tensor& numbers) {
  return numbers.view(at::kInt).bitwise_and(0x7f800000).view(at::kFloat);
}

/// Magnitudes, of which a NaN counts as none.
at::Tensor magnitudes(const at::Tensor& numbers) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return numbers.abs().nan_to_num(0.0, kInfinity, kInfinity);
}

at::Tensor largest_magnitude(const at::Tensor& matrix) {
  at::Tensor largest = at::zeros({}, matrix.options().dtype(at::kFloat));
  for_row_pieces(matrix.size(0), matrix.size(1), kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    largest = at::maximum(largest, magnitudes(matrix.narrow(0, first, count)).amax().to(at::kFloat));
  });
  return largest;
}

/// A number on the device: torch turns a division by one of the host's into a multiplication there.
at::Tensor number(float value, const at::Tensor& like) { return at::full({}, value, like.options()); }

/// tile_scale() of each element of `largest`.
at::Tensor tile_scales(NumberFormat format, const at::Tensor& largest, const at::Tensor& tensor_largest) {
  const SmallFloat& element = element_of(format);
  at::Tensor scale = largest / number(element.largest, largest);
  if (format == NumberFormat::mxfp4) {
    scale =
        binade_of(largest).div(binade_of(number(element.largest, largest))).masked_fill(largest.lt(kSmallestScale), 0);
  } else if (format == NumberFormat::nvfp4) {
    const at::Tensor tensor_scale = tensor_largest / number(kE4M3.largest * kE2M1.largest, largest);
    scale = scale / tensor_scale;
    const at::Tensor magic = binade_of(scale).clamp_min(0x1p-6).mul(0x1.8p20);
    scale = scale.add(magic).sub(magic).clamp_max(kE4M3.largest).mul(tensor_scale);
    scale = scale.masked_fill(tensor_scale.lt(kSmallestScale), 0);
  }
  return at::where(largest.isfinite(), scale.masked_fill(scale.lt(kSmallestScale), 0), largest);
}

/// What stochastic rounding adds, in units of the binade: [rows, cols] of places `first_row`… in a matrix of `cols`.
at::Tensor draws(const FakeQuantize& how, std::int64_t first_row, at::IntArrayRef padded, std::int64_t cols,
                 const at::Tensor& like) {
  const auto numbers = like.options().dtype(at::kLong);
  const at::Tensor places =
      at::arange(first_row, first_row + padded[0], numbers).mul(cols).unsqueeze(1) + at::arange(padded[1], numbers);
  const double step = 1.0 / (1 << element_of(how.format).mantissa_bits);
  return random_words(places, how.key).bitwise_right_shift(16).to(at::kFloat).add(0.5).mul(0x1p-16).sub(0.5).mul(step);
}

}  // namespace

at::Tensor random_words(const at::Tensor& places, std::uint64_t key) {
  const auto low = static_cast<std::int64_t>(key & kWord), high = static_cast<std::int64_t>(key >> 32);
  at::Tensor x = places.add(low).bitwise_and_(kWord);
  const auto mix = [&](int shift, std::int64_t factor) {
    x.bitwise_xor_(x.bitwise_right_shift(shift));
    x.mul_(factor).bitwise_and_(kWord);
  };
  // 0x846ca68b as the negative number that is equal to it modulo 2^32: products then stay within 63 bits.
  mix(16, 0x7feb352d), mix(15, 0x846ca68b - (kWord + 1));
  x.bitwise_xor_(x.bitwise_right_shift(16)).bitwise_xor_(high);
  x.mul_(0x7feb352d).bitwise_and_(kWord);
  return x.bitwise_xor_(x.bitwise_right_shift(15));
}

at::Tensor GridBand::inside(const at::Tensor& tiled) const {
  return tiled.reshape({tiled.size(0) * tiled.size(1), tiled.size(2) * tiled.size(3)})
      .narrow(0, 0, rows)
      .narrow(1, 0, cols);
}

void for_grid_bands(const FakeQuantize& how, const at::Tensor& matrix,
                    const std::function<void(const GridBand&)>& take) {
  const SmallFloat& element = element_of(how.format);
  const Tile tile = tile_of(how);
  const std::int64_t rows = matrix.size(0), cols = matrix.size(1);
  const std::int64_t down = (rows + tile.rows - 1) / tile.rows, across = (cols + tile.cols - 1) / tile.cols;
  const at::Tensor tensor_largest = how.format == NumberFormat::nvfp4 ? largest_magnitude(matrix) : at::Tensor();
  for_row_pieces(down, tile.rows * cols, kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    GridBand band{.first_row = first * tile.rows, .rows = 0, .cols = cols, .units = {}, .scales = {}};
    band.rows = std::min(count * tile.rows, rows - band.first_row);
    const at::Tensor x = at::constant_pad_nd(matrix.narrow(0, band.first_row, band.rows).to(at::kFloat),
                                             {0, across * tile.cols - cols, 0, count * tile.rows - band.rows})
                             .contiguous();
    const at::Tensor tiled = x.view({count, tile.rows, across, tile.cols});
    band.scales = tile_scales(how.format, magnitudes(tiled).amax({1, 3}, true), tensor_largest);
    at::Tensor units = tiled.mul(at::where(band.scales.gt(0), band.scales.reciprocal(), band.scales));
    const at::Tensor binade = binade_of(units).clamp_min(std::ldexp(1.0, element.lowest_exponent()));
    if (how.stochastic) units.add_(draws(how, band.first_row, x.sizes(), cols, x).view_as(tiled).mul_(binade));
    const at::Tensor magic = binade.mul(std::ldexp(1.5, 23 - element.mantissa_bits));
    band.units = units.add_(magic).sub_(magic).clamp_(-element.largest, element.largest);
    take(band);
  });
}

void fake_quantize(const FakeQuantize& how, const at::Tensor& in, const at::Tensor& out) {
  for_grid_bands(how, in, [&](const GridBand& band) {
    out.narrow(0, band.first_row, band.rows).copy_(band.inside(band.units * band.scales));
  });
}

}  // namespace scalebits::tensors
