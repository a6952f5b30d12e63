// Contract of real FP8 products, on the processor: all three of a linear layer are the emulated ones up to the
// roundings that emulation adds, on shapes that no tile divides, and so is a step that is made of them. On a card only
// the product itself is another.
#include "train/quantized_products.h"
#include "train/training_graph.h"
#include "train_numbers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace scalebits {
namespace {

using namespace testing_train;

/// All three products with operands of `type`, real and emulated, and what may lie between them.
void expect_emulated_product(std::int64_t tokens, std::int64_t outputs, std::int64_t inputs, at::ScalarType type) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << inputs << " -> " << outputs << ", " << type);
  TrainPlace place = kTensors;
  Workspace workspace;
  const ProductContext emulated{kTensors, workspace}, real{place, workspace};
  place.fp8_product = fp8_product_on(at::kCPU);
  const at::Tensor x = awkward(tokens, inputs, 1).to(type), dy = awkward(tokens, outputs, 2).to(type),
                   w = awkward(outputs, inputs, 3);
  const auto sizes_on_grid = [&](const at::Tensor& matrix, Tiling tiling, bool is_weight) {
    const FakeQuantize how{.format = NumberFormat::fp8, .tiling = tiling, .is_weight = is_weight};
    return put_on_grid(how, matrix.to(at::kFloat), at::kFloat, "grid", emulated).abs();
  };
  // Both multiply the same codes and scales; emulation rounds an operand to f32 or bf16 first, either rounds sums of
  // `terms` products, and results to their type.
  const auto check = [&](const char* what, const at::Tensor& sizes, std::int64_t terms, bool accumulate,
                         at::ScalarType result, const auto& multiply) {
    const double operand = type == at::kFloat ? kEpsilon / 2 : 0x1p-9, out = result == at::kFloat ? kEpsilon : 0x1p-8;
    const at::Tensor found = awkward(sizes.size(0), sizes.size(1), 4).to(result), wanted = found.clone();
    const at::Tensor bound =
        sizes * (2 * operand + static_cast<double>(terms) * kEpsilon) + (sizes + found.abs()) * out + 1e-30;
    multiply(real, found);
    multiply(emulated, wanted);
    EXPECT_TRUE(found.sub(wanted).to(at::kFloat).abs().le(bound).all().item<bool>())
        << what << (accumulate ? ", added" : "") << ": " << difference(found.to(at::kFloat), wanted.to(at::kFloat));
    EXPECT_GT(largest(found.to(at::kFloat)), 0);
  };
  const ProductRounding fp8{NumberFormat::fp8};
  check("forward", sizes_on_grid(x, Tiling::along_rows, false).mm(sizes_on_grid(w, Tiling::along_rows, true).t()),
        inputs, false, type, [&](const ProductContext& context, const at::Tensor& out) {
          ProductInput input(x, context);
          quantized_forward(fp8, input, w, out, context);
        });
  for (const bool accumulate : {false, true})
    check("input gradient",
          sizes_on_grid(dy, Tiling::along_rows, false).mm(sizes_on_grid(w, Tiling::down_columns, true)), outputs,
          accumulate, type, [&](const ProductContext& context, const at::Tensor& out) {
            quantized_input_gradient(fp8, dy, w, out, accumulate, context);
          });
  check("weight gradient",
        sizes_on_grid(dy, Tiling::down_columns, false).t().mm(sizes_on_grid(x, Tiling::down_columns, false)), tokens,
        false, at::kFloat, [&](const ProductContext& context, const at::Tensor& out) {
          ProductInput input(x, context);
          quantized_weight_gradient(fp8, dy, input, out, context);
        });
}

TEST(Fp8Product, IsTheEmulatedOneUpToRounding) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    expect_emulated_product(70, 300, 200, type);
    expect_emulated_product(256, 128, 384, type);
    expect_emulated_product(1, 5, 130, type);
    expect_emulated_product(133, 129, 7, type);
  }
}

TEST(Fp8Product, TrainsAsTheEmulatedOnes) {
  TrainPlace place = kTensors;
  place.fp8_product = fp8_product_on(at::kCPU);
  Parameters emulated = random_parameters(kTensors), real = random_parameters(place);
  const at::Tensor ids = random_ids(real.spec());
  TrainingGraph a(emulated, {.operand = at::kFloat}), b(real, {.operand = at::kFloat});
  const at::Tensor exact = gradients_of(a, ids, NumberFormat::bf16, 0),
                   wanted = gradients_of(a, ids, NumberFormat::fp8, 0);
  EXPECT_LE(relative_difference(gradients_of(b, ids, NumberFormat::fp8, 0), wanted),
            rounding_of_step(real.spec(), ids, relative_difference(wanted, exact)));
}

}  // namespace
}  // namespace scalebits
