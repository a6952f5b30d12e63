#include "train/fp8_product.h"

#include "core/error.h"
#include "train/tensor_train_arithmetic.h"

#include <ATen/ATen.h>
#include <ATen/BlasBackend.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>

namespace scalebits {
namespace {

using at::blas::ScalingType;

constexpr std::int64_t kTile = 128;

constexpr std::int64_t tiles(std::int64_t extent) { return (extent + kTile - 1) / kTile; }

Fp8Operand quantized(const FakeQuantize& how, const at::Tensor& matrix) {
  const Tile tile = tile_of(how);
  const std::int64_t down = (matrix.size(0) + tile.rows - 1) / tile.rows;
  const auto options = matrix.options();
  const Fp8Operand operand{at::empty(matrix.sizes(), options.dtype(at::kFloat8_e4m3fn)),
                           at::empty({down, tiles(matrix.size(1))}, options.dtype(at::kFloat))};
  tensors::for_grid_bands(how, matrix, [&](const tensors::GridBand& band) {
    operand.codes.narrow(0, band.first_row, band.rows).copy_(band.inside(band.units));
    operand.scales.narrow(0, band.first_row / tile.rows, band.scales.size(0))
        .copy_(band.scales.view({band.scales.size(0), -1}));
  });
  return operand;
}

/// A weight of one row is like any other matrix.
bool is_weight(const Fp8Operand& operand) { return operand.scales.size(0) != operand.codes.size(0); }

void put(const at::Tensor& product, const at::Tensor& out, bool accumulate) {
  accumulate ? out.add_(product) : out.copy_(product);
}

at::Tensor scaled_product(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_scales, ScalingType a_scaling,
                          const at::Tensor& b_scales, ScalingType b_scaling, at::ScalarType type) {
  constexpr std::int64_t kNoSwizzle = 0;
  return at::_scaled_mm_v2(a, b.t(), {a_scales}, static_cast<std::int64_t>(a_scaling), kNoSwizzle, {b_scales},
                           static_cast<std::int64_t>(b_scaling), kNoSwizzle, std::nullopt, type);
}

/// Zeros behind a matrix.
at::Tensor padded(const at::Tensor& matrix, std::int64_t rows, std::int64_t cols) {
  if (matrix.size(0) == rows && matrix.size(1) == cols) return matrix;
  const at::Tensor larger = at::zeros({rows, cols}, matrix.options());
  larger.narrow(0, 0, matrix.size(0)).narrow(1, 0, matrix.size(1)).copy_(matrix);
  return larger;
}

/// What is wrong with a product on a device, found by making one of each kind; empty where nothing is.
std::string fault_of(Fp8Product product, at::Device device) {
  const at::Tensor a = at::arange(64 * 384, at::TensorOptions().dtype(at::kFloat).device(device)).remainder(15).sub(7);
  const at::Tensor x = a.view({64, 384}), w = a.narrow(0, 0, 48 * 384).view({48, 384});
  try {
    for (const Fp8Operand& b : {fp8_weight(w), fp8_operand(w)}) {
      const at::Tensor out = at::empty({64, 48}, a.options());
      product(fp8_operand(x), b, out, false);
      // Integers up to 7 are codes under their scale of 7 / 448, so that nothing is rounded but sums.
      const at::Tensor wanted = x.mm(w.t()), bound = x.abs().mm(w.abs().t()) * 0x1p-8;
      if (!out.sub(wanted).abs().le(bound).all().item<bool>()) return "its products are wrong";
    }
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return {};
}

}  // namespace

Fp8Operand fp8_operand(const at::Tensor& matrix) { return quantized({.format = NumberFormat::fp8}, matrix); }
Fp8Operand fp8_weight(const at::Tensor& matrix) {
  return quantized({.format = NumberFormat::fp8, .is_weight = true}, matrix);
}

void fp8_product_of_blocks(const Fp8Operand& a, const Fp8Operand& b, const at::Tensor& out, bool accumulate) {
  // cuBLAS wants scales column by column, columns of blocks' scales a multiple of 4 long, and no odd dimensions: tiles
  // are made whole.
  const std::int64_t depth = tiles(a.codes.size(1));
  const auto codes = [&](const Fp8Operand& operand) {
    // As bytes: not every device copies every operation's numbers in E4M3, and a code of zero is a zero.
    return padded(operand.codes.view(at::kByte), tiles(operand.codes.size(0)) * kTile, depth * kTile)
        .view(at::kFloat8_e4m3fn);
  };
  const auto scales_of_tiles = [&](const Fp8Operand& operand) {
    return padded(operand.scales.t().contiguous(), depth, tiles(operand.codes.size(0)) * kTile).t();
  };
  const bool blocks = is_weight(b);
  const at::Tensor b_scales = blocks ? padded(b.scales, b.scales.size(0), (depth + 3) / 4 * 4).t() : scales_of_tiles(b);
  const at::Tensor product =
      scaled_product(codes(a), codes(b), scales_of_tiles(a), ScalingType::BlockWise1x128, b_scales,
                     blocks ? ScalingType::BlockWise128x128 : ScalingType::BlockWise1x128,
                     accumulate ? at::kFloat : out.scalar_type());
  put(product.narrow(0, 0, a.codes.size(0)).narrow(1, 0, b.codes.size(0)), out, accumulate);
}

void fp8_product_of_slices(const Fp8Operand& a, const Fp8Operand& b, const at::Tensor& out, bool accumulate) {
  const std::int64_t n = b.codes.size(0), k = a.codes.size(1);
  const at::Tensor sum = at::zeros(out.sizes(), out.options().dtype(at::kFloat));
  for (std::int64_t tile = 0; tile < tiles(k); ++tile) {
    const std::int64_t first = tile * kTile, count = std::min(kTile, k - first);
    at::Tensor b_scales = b.scales.select(1, tile);
    if (is_weight(b)) b_scales = b_scales.repeat_interleave(kTile).narrow(0, 0, n);
    sum.add_(scaled_product(a.codes.narrow(1, first, count), b.codes.narrow(1, first, count),
                            a.scales.narrow(1, tile, 1).contiguous(), ScalingType::RowWise,
                            b_scales.contiguous().unsqueeze(0), ScalingType::RowWise, at::kFloat));
  }
  put(sum, out, accumulate);
}

Fp8Product fp8_product_on(at::Device device) {
  const Fp8Product product = device.is_cpu() ? fp8_product_of_slices : fp8_product_of_blocks;
  if (const std::string fault = fault_of(product, device); !fault.empty())
    fail(ErrorKind::unsupported_hardware,
         "fp8_products=hardware wants FP8 products under scales of 1x128 and 128x128, which libtorch makes on cards of "
         "compute capability 9.0 with CUDA 12.9 or later; {} makes none: {}",
         device.str(), fault);
  return product;
}

}  // namespace scalebits
