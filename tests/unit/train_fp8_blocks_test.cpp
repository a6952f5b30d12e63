// Contract of the card's FP8 product, as far as a processor can tell: operands, scales, shapes and strides reach
// libtorch as its block-scaled product wants them (its source says: ScaledBlas.cpp), and what comes back is put where
// it belongs. In this program libtorch's product on the processor is replaced by one that checks all that and
// multiplies in f32.
#include "train_numbers.h"

#include <ATen/BlasBackend.h>
#include <ATen/ops/_scaled_mm_v2_ops.h>
#include <gtest/gtest.h>
#include <torch/library.h>

namespace scalebits {
namespace {

using namespace testing_train;
using at::blas::ScalingType;

void expect_layout(const at::Tensor& scales, std::int64_t rows, std::int64_t cols) {
  EXPECT_EQ(scales.scalar_type(), at::kFloat);
  EXPECT_EQ(scales.sizes(), at::IntArrayRef({rows, cols}));
  EXPECT_EQ(scales.stride(0), 1);
  EXPECT_EQ(scales.stride(1), rows);
}

/// Of each element of a matrix [rows, k], from those of its tiles.
at::Tensor spread(const at::Tensor& scales, std::int64_t height, const at::Tensor& matrix) {
  return scales.repeat_interleave(height, 0)
      .repeat_interleave(128, 1)
      .narrow(0, 0, matrix.size(0))
      .narrow(1, 0, matrix.size(1));
}

template <typename List>
struct CheckedProduct {
  static at::Tensor run(const at::Tensor& a, const at::Tensor& b, List a_scales, at::IntArrayRef a_recipe,
                        at::IntArrayRef a_swizzle, List b_scales, at::IntArrayRef b_recipe, at::IntArrayRef b_swizzle,
                        const std::optional<at::Tensor>&, std::optional<at::ScalarType> type, at::IntArrayRef, bool) {
    const at::Tensor a_scale = *a_scales.begin(), b_scale = *b_scales.begin(), rows = b.t();
    const std::int64_t depth = a.size(1) / 128;
    EXPECT_TRUE(a.is_contiguous() && rows.is_contiguous()) << "b lies column by column";
    EXPECT_EQ(a.scalar_type(), at::kFloat8_e4m3fn);
    EXPECT_EQ(b.scalar_type(), at::kFloat8_e4m3fn);
    for (const std::int64_t extent : {a.size(0), a.size(1), b.size(1)}) EXPECT_EQ(extent % 128, 0);
    EXPECT_EQ(a_recipe[0], static_cast<std::int64_t>(ScalingType::BlockWise1x128));
    EXPECT_EQ(a_swizzle[0] + b_swizzle[0], 0);
    expect_layout(a_scale, a.size(0), depth);
    const at::Tensor left = a.to(at::kFloat) * spread(a_scale, 1, a);
    const bool blocks = b_recipe[0] == static_cast<std::int64_t>(ScalingType::BlockWise128x128);
    if (blocks)
      expect_layout(b_scale, (depth + 3) / 4 * 4, b.size(1) / 128);
    else
      expect_layout(b_scale, b.size(1), depth);
    const at::Tensor scales = blocks ? spread(b_scale.t(), 128, rows) : spread(b_scale, 1, rows);
    return left.mm((rows.to(at::kFloat) * scales).t()).to(*type);
  }
};
template <typename Result, typename A, typename B, typename List, typename... Rest>
CheckedProduct<List> checked(Result (*)(A, B, List, Rest...));
using Replacement = decltype(checked(static_cast<at::_ops::_scaled_mm_v2::schema*>(nullptr)));

TORCH_LIBRARY_IMPL(aten, CPU, library) { library.impl("_scaled_mm_v2", &Replacement::run); }

TEST(Fp8ProductOfBlocks, IsTheProductOfItsOperandsOnTheGrid) {
  for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
           {70, 300, 200}, {256, 128, 384}, {1, 5, 130}, {133, 1, 7}, {128, 256, 640}})
    for (const bool is_weight : {false, true})
      for (const bool accumulate : {false, true}) {
        SCOPED_TRACE(testing::Message() << m << "x" << n << "x" << k << (is_weight ? " weight" : ""));
        const at::Tensor a = awkward(m, k, 1), b = awkward(n, k, 2), start = awkward(m, n, 3);
        const at::Tensor on_grid_a = at::empty_like(a), on_grid_b = at::empty_like(b), found = start.clone();
        host_train_arithmetic().fake_quantize({.format = NumberFormat::fp8}, a, on_grid_a);
        host_train_arithmetic().fake_quantize({.format = NumberFormat::fp8, .is_weight = is_weight}, b, on_grid_b);
        fp8_product_of_blocks(fp8_operand(a), is_weight ? fp8_weight(b) : fp8_operand(b), found, accumulate);
        const at::Tensor wanted = on_grid_a.mm(on_grid_b.t()) + (accumulate ? start : at::zeros_like(start));
        // Sums of k products in f32, and the last addition.
        const at::Tensor bound =
            (on_grid_a.abs().mm(on_grid_b.abs().t()) + start.abs()) * (static_cast<double>(k) * kEpsilon);
        EXPECT_TRUE(found.sub(wanted).abs().le(bound + 1e-30).all().item<bool>()) << difference(found, wanted);
      }
}

}  // namespace
}  // namespace scalebits
