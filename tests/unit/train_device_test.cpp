// Contract of training in tensor operations: on the CPU's tensors, values on a format's grid and random draws are the
// host's to the bit, on shapes that no tile divides; all else is the host's up to the order of sums, from single
// operations to a step's loss and gradients and what SNIP measures in it. Only the device differs on a card.
#include "graph/tensor_arithmetic.h"
#include "train/snip.h"
#include "train_numbers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace scalebits {
namespace {

using namespace testing_train;

/// Equal to the bit, any NaN being like any other.
bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto bits = [](const at::Tensor& tensor) {
    const at::Tensor plain = tensor.masked_fill(tensor.isnan(), 0);
    return plain.scalar_type() == at::kFloat ? plain.view(at::kInt) : plain.view(at::kShort);
  };
  return at::equal(a.isnan(), b.isnan()) && at::equal(bits(a), bits(b));
}

void expect_same_bits(const FakeQuantize& how, const at::Tensor& in, at::ScalarType out_type) {
  const at::Tensor host = at::empty(in.sizes(), out_type), tensors = at::empty(in.sizes(), out_type);
  host_train_arithmetic().fake_quantize(how, in, host);
  tensor_train_arithmetic().fake_quantize(how, in, tensors);
  EXPECT_TRUE(same_bits(host, tensors)) << name_of(how.format)
                                        << (how.tiling == Tiling::along_rows ? " rows" : " columns")
                                        << (how.is_weight ? " weight" : "") << (how.stochastic ? " stochastic " : " ")
                                        << in.sizes() << " " << in.scalar_type() << " to " << out_type;
}

constexpr std::uint64_t kKey = 0x9234567890abcdefull;

/// In every format and tiling.
void expect_same_grid(const at::Tensor& in, at::ScalarType out_type) {
  for (const NumberFormat format : kNumberFormats) {
    if (format == NumberFormat::bf16) continue;
    for (const Tiling tiling : {Tiling::along_rows, Tiling::down_columns})
      for (const bool is_weight : {false, true})
        for (const bool stochastic : {false, true})
          expect_same_bits({format, tiling, is_weight, stochastic, kKey}, in, out_type);
  }
}

TEST(TensorFakeQuantize, IsTheHostsToTheBit) {
  for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {300, 200}, {130, 256}, {129, 70}, {1, 5}, {7, 1}, {16, 128}, {33, 700}}) {
    const at::Tensor in = awkward(rows, cols, static_cast<std::uint64_t>(rows * 1000 + cols));
    expect_same_grid(in, at::kFloat);
    expect_same_grid(in, at::kBFloat16);
    expect_same_grid(in.to(at::kBFloat16), at::kBFloat16);
  }
  // Tiles whose scales are about the smallest, tensors whose scale is too small, and the other end.
  for (const float size : {0x1p-112f, 0x1p-130f, 0x1p115f}) expect_same_grid(awkward(140, 130, 7) * size, at::kFloat);
}

TEST(TensorFakeQuantize, PiecesJoinWithoutASeam) {
  const std::int64_t cols = 1031, rows = kTensorPiece / cols + 3;
  const at::Tensor in = awkward(64, cols, 3).repeat({rows / 64 + 1, 1}).narrow(0, 0, rows).contiguous();
  expect_same_bits({.format = NumberFormat::fp8, .is_weight = true}, in, at::kFloat);
  expect_same_bits({NumberFormat::nvfp4, Tiling::down_columns, false, true, kKey}, in, at::kFloat);
}

TEST(TensorFakeQuantize, NanAndInfinityAreTheHosts) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    const at::Tensor in = awkward(40, 200, 9);
    in.data_ptr<float>()[1234] = bad;
    expect_same_grid(in, at::kFloat);
    expect_same_grid(in.to(at::kBFloat16), at::kBFloat16);
  }
}

TEST(TensorTrainArithmetic, NoiseIsTheHostsToTheBit) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor host = awkward(37, 1003, 5).to(type), tensors = host.clone();
    host_train_arithmetic().add_noise(host, {0.25, 0xf234567812345678ull});
    tensor_train_arithmetic().add_noise(tensors, {0.25, 0xf234567812345678ull});
    EXPECT_TRUE(same_bits(host, tensors));
  }
}

TEST(TensorTrainArithmetic, SumsAreTheHosts) {
  const TrainArithmetic &host = host_train_arithmetic(), &tensors = tensor_train_arithmetic();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor a = at::randn({37, 1003}).to(type), b = at::randn({37, 1003});
    // Of either: sums of at most 1024 f32 terms err by a few epsilon of the terms' sizes, whose sum is the squares'.
    const double size = host.squared_norm(a) + host.squared_norm(b), tolerance = 64 * kEpsilon * size;
    EXPECT_NEAR(tensors.squared_norm(a), host.squared_norm(a), tolerance);
    EXPECT_NEAR(tensors.inner_product(a, b), host.inner_product(a, b), tolerance);
    EXPECT_NEAR(tensors.squared_distance(a, b), host.squared_distance(a, b), 4 * tolerance);
    const at::Tensor x = at::randn({1003, 37}), dout = at::randn({1003, 37}).to(type);
    const at::Tensor wanted = at::empty({37}), found = at::empty({37});
    host.norm_weight_gradient(dout, x, 0.25, wanted);
    tensors.norm_weight_gradient(dout, x, 0.25, found);
    // Terms of size |dout|: a mean of 37 squares and some ten operations; the host adds 128 of them up in f32.
    EXPECT_LE(difference(wanted, found), (37 + 10 + 128) * kEpsilon * largest(dout.to(at::kFloat).abs().sum(0)));
  }
}

TEST(TensorTrainArithmetic, AdamWIsTheHosts) {
  Parameters host = random_parameters({}), tensors = random_parameters(kTensors);
  const double norm = gradient_norm(host);
  EXPECT_NEAR(kTensors.train->gradient_norm(tensors), norm, 64 * kEpsilon * norm);
  const AdamWOptions options;
  const AdamWStep step{.rate = 0.01, .step = 4, .gradient_scale = 0.5};
  for (std::size_t i = 0; i < host.all().size(); ++i) {
    const Parameter& parameter = host.all()[i];
    const at::Tensor changed = parameter.gradient + 0.125;
    const double change = squared_update_change(parameter, options, step, parameter.gradient, changed);
    EXPECT_NEAR(kTensors.train->squared_update_change(tensors.all()[i], options, step, parameter.gradient, changed),
                change, 1e-4 * change);
  }
  adamw_update(host, options, step);
  kTensors.train->adamw_update(tensors, options, step);
  for (std::size_t i = 0; i < host.all().size(); ++i) {
    const Parameter &a = host.all()[i], &b = tensors.all()[i];
    // Some ten operations; the direction is at most mean / sqrt(square) with their corrections, about 4.
    EXPECT_LE(difference(a.value, b.value), 10 * kEpsilon * (largest(a.value) + 4 * step.rate)) << a.name;
    EXPECT_LE(difference(a.mean, b.mean), 4 * kEpsilon) << a.name;
    EXPECT_LE(difference(a.square, b.square), 4 * kEpsilon) << a.name;
  }
}

class TrainingOnTensors : public testing::TestWithParam<NumberFormat> {};
INSTANTIATE_TEST_SUITE_P(Formats, TrainingOnTensors, testing::ValuesIn(kNumberFormats),
                         [](const auto& format) { return std::string(name_of(format.param)); });

TEST_P(TrainingOnTensors, LossAndGradientsAreTheHosts) {
  for (const bool tied : {true, false}) {
    Parameters host = random_parameters({}, tied), tensors = random_parameters(kTensors, tied);
    const at::Tensor ids = random_ids(host.spec());
    TrainingGraph a(host, {.operand = at::kFloat, .seed = 2}), b(tensors, {.operand = at::kFloat, .seed = 2});
    const at::Tensor exact = gradients_of(a, ids, NumberFormat::bf16, 7), wanted = gradients_of(a, ids, GetParam(), 7);
    const double effect = relative_difference(wanted, exact);
    const double tolerance = rounding_of_step(host.spec(), ids, effect);
    EXPECT_LE(relative_difference(gradients_of(b, ids, GetParam(), 7), wanted), tolerance);
    if (is_fp4(GetParam())) {
      EXPECT_GT(relative_difference(gradients_of(b, ids, GetParam(), 8), wanted), effect / 2) << "other draws";
    }
    const PrecisionScheme scheme = uniform_scheme(host.spec(), GetParam());
    const double loss = a.loss(ids, scheme).mean;
    EXPECT_NEAR(b.loss(ids, scheme).mean, loss, tolerance * loss);
  }
}

TEST(TrainingOnTensors, SnipMeasuresAndChoosesAsOnTheHost) {
  const auto run = [&](const TrainPlace& place, std::vector<std::vector<double>>& costs) {
    Parameters parameters = random_parameters(place);
    for (Parameter& parameter : parameters.all()) parameter.mean.zero_(), parameter.square.fill_(1e-6);
    TrainingGraph graph(parameters, {.operand = at::kFloat, .seed = 2});
    ProcessGroup alone;
    SharedPasses passes(graph, alone, 2);
    const AdamWOptions adamw;
    const SchemeOptions options{.kind = SchemeKind::snip, .probe_windows = 4};
    const auto choices = scheme_options(NumberFormat::fp8, NumberFormat::fp4, true);
    const SnipMeasurement measured =
        measure_step({passes, options, adamw, {.rate = 1e-3, .step = 10}, random_ids(parameters.spec()), 7},
                     {NumberFormat::fp8, NumberFormat::fp4});
    costs = snip_costs(parameters.spec(), measured, choices, NumberFormat::fp4, 0.1);
    return measured;
  };
  std::vector<std::vector<double>> host, tensors;
  const double loss = run({}, host).statistics.loss;
  const ModelSpec spec = random_parameters({}).spec();
  const double tolerance = rounding_of_step(spec, random_ids(spec), 0);
  EXPECT_NEAR(run(kTensors, tensors).statistics.loss, loss, tolerance * loss);
  ASSERT_EQ(host.size(), tensors.size());
  // Each product is measured by itself behind an exact pass. A relative change r carries a number over a border between
  // neighbours a step s apart with probability 2 r / s, by s: sqrt(2 r s) in the root mean square, s at most 1/2.
  double total = 0;
  for (const auto& of_layer : host) total += *std::max_element(of_layer.begin(), of_layer.end());
  for (std::size_t linear = 0; linear < host.size(); ++linear)
    for (std::size_t option = 0; option < host[linear].size(); ++option)
      EXPECT_NEAR(tensors[linear][option], host[linear][option], std::sqrt(tolerance) * total);
}

}  // namespace
}  // namespace scalebits
