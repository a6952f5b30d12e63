// Contract of the tensor arithmetic: on the CPU's tensors each operation does what the host's kernels do, up to the
// order of sums, on shapes that no block, lane or piece divides; a decoder on it gives transformers' loss and gradients
// however its batch is cut and wherever it lies, and the same bits twice. Only the device differs on a card.
#include "graph/batch_plan.h"
#include "graph/decoder.h"
#include "graph/tensor_arithmetic.h"
#include "graph_golden.h"
#include "peak_memory.h"

#include "core/error.h"
#include "core/random.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace scalebits {
namespace {

using namespace testing_graph;

/// Random tensors, the same for both arithmetics.
class Inputs {
 public:
  at::Tensor normal(at::IntArrayRef shape, at::ScalarType type = at::kFloat) {
    at::Tensor tensor = at::empty(shape, at::kFloat);
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      tensor.data_ptr<float>()[i] = static_cast<float>(rng_.normal(draws_++));
    return tensor.to(type);
  }

 private:
  CounterRng rng_{11};
  std::uint64_t draws_ = 0;
};

/// One step of the type's grid beside the largest value: results that differ by f32 roundings may be rounded to
/// neighbours.
double grid(at::ScalarType type, const at::Tensor& values) {
  return (type == at::kFloat ? 0 : kBf16Epsilon) * largest(values.to(at::kFloat));
}

/// run(arithmetic, tensors) on copies of `inputs` for either arithmetic; all tensors then agree within `roundings` f32
/// epsilons of the largest value of any of them and one step of their own type, and no more was taken than is counted.
void expect_alike(const std::vector<at::Tensor>& inputs, double roundings, const char* what,
                  const std::function<void(const Arithmetic&, const std::vector<at::Tensor>&)>& run) {
  std::vector<at::Tensor> host, tensors;
  for (const at::Tensor& input : inputs) {
    host.push_back(input.defined() ? input.clone() : input);
    tensors.push_back(input.defined() ? input.clone() : input);
  }
  run(host_arithmetic(), host);
  const PeakMemory temporaries;
  run(tensor_arithmetic(), tensors);
  EXPECT_LE(temporaries.bytes(), kTensorTemporaryBytes) << what;
  double size = 0;
  for (const at::Tensor& tensor : host)
    if (tensor.defined()) size = std::max(size, largest(tensor.to(at::kFloat)));
  for (std::size_t i = 0; i < host.size(); ++i) {
    if (!host[i].defined()) continue;
    EXPECT_LE(difference(host[i].to(at::kFloat), tensors[i].to(at::kFloat)),
              roundings * kEpsilon * size + grid(host[i].scalar_type(), host[i]))
        << what << ", tensor " << i;
  }
}

class Operands : public testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(TensorArithmetic, Operands, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& type) { return type.param == at::kFloat ? "f32" : "bf16"; });

TEST_P(Operands, NormsActivationsAndRotationsAreTheHosts) {
  const at::ScalarType type = GetParam();
  Inputs in;
  for (const std::int64_t width : {1, 7, 64, 131}) {
    SCOPED_TRACE(width);
    // A mean of `width` terms, then about ten operations of one rounding each.
    const double roundings = static_cast<double>(width) + 10;
    const std::int64_t n = 13;
    const at::Tensor x = in.normal({n, width}), delta = in.normal({n, width}, type), weight = in.normal({width}),
                     sum = at::zeros({n, width}), out = at::zeros({n, width}, type);
    for (const at::Tensor& bias : {at::Tensor(), in.normal({width})}) {
      if (width == 1 && bias.defined()) continue;  // a lone value less its mean is nothing but rounding
      // The inverse deviation multiplies all errors: it is at most 1 / sqrt(eps).
      const auto norm = [&](const std::vector<at::Tensor>& t) { return Norm{t[2], bias, 0.25}; };
      expect_alike({x, delta, weight, sum, out}, 4 * roundings, "add_norm",
                   [&](const Arithmetic& a, const auto& t) { a.add_norm(t[0], t[1], norm(t), t[3], t[4]); });
      expect_alike({x, {}, weight, {}, out}, 4 * roundings, "norm alone",
                   [&](const Arithmetic& a, const auto& t) { a.add_norm(t[0], t[1], norm(t), t[3], t[4]); });
      expect_alike({x, delta, weight, sum, out}, 16 * roundings, "norm_backward",
                   [&](const Arithmetic& a, const auto& t) { a.norm_backward(t[1], t[0], norm(t), t[3], t[4]); });
      expect_alike({x, delta, weight, sum}, 16 * roundings, "norm_backward, unrounded",
                   [&](const Arithmetic& a, const auto& t) { a.norm_backward(t[1], t[0], norm(t), t[3], {}); });
    }
    const std::int64_t heads = 3;
    const at::Tensor rows = in.normal({n, heads * width}, type), dout = in.normal({n, heads * width}, type);
    expect_alike({rows, weight, dout}, 4 * roundings, "head_norm",
                 [&](const Arithmetic& a, const auto& t) { a.head_norm(t[0], t[1], 0.25, t[2]); });
    expect_alike({dout, rows, weight}, 16 * roundings, "head_norm_backward",
                 [&](const Arithmetic& a, const auto& t) { a.head_norm_backward(t[0], t[1], t[2], 0.25); });
    expect_alike({rows, in.normal({heads * width})}, 1, "add_bias",
                 [&](const Arithmetic& a, const auto& t) { a.add_bias(t[0], t[1]); });
    const at::Tensor product = in.normal(rows.sizes(), type);
    expect_alike({rows, dout, product}, 10, "swiglu",
                 [&](const Arithmetic& a, const auto& t) { a.swiglu(t[0], t[1], t[2]); });
    expect_alike({rows, dout, product}, 10, "swiglu_backward",
                 [&](const Arithmetic& a, const auto& t) { a.swiglu_backward(t[0], t[1], t[2]); });
    expect_alike({rows, product}, 0, "relu", [&](const Arithmetic& a, const auto& t) { a.relu(t[0], t[1]); });
    expect_alike({rows, product}, 0, "relu_backward",
                 [&](const Arithmetic& a, const auto& t) { a.relu_backward(t[0], t[1]); });
    expect_alike({x, delta, sum}, 1, "add", [&](const Arithmetic& a, const auto& t) { a.add(t[0], t[1], t[2]); });
    expect_alike({x, delta}, 0, "convert down", [&](const Arithmetic& a, const auto& t) { a.convert(t[0], t[1]); });
    expect_alike({delta, x}, 0, "convert up", [&](const Arithmetic& a, const auto& t) { a.convert(t[0], t[1]); });
  }
  ModelSpec spec;
  spec.head_dim = 6;
  RopeTable table(spec);
  table.reserve(12);
  for (const float sign : {1.0f, -1.0f})
    expect_alike({in.normal({2 * 5, 3 * 6}, type)}, 3, "rotate",
                 [&](const Arithmetic& a, const auto& t) { a.rotate(table, t[0], 5, 7, sign); });
}

TEST_P(Operands, ProductsAreTheHosts) {
  const at::ScalarType type = GetParam();
  Inputs in;
  const std::int64_t n = 19, rows = 23, cols = 37;
  const at::Tensor x = in.normal({n, cols}, type), w = in.normal({rows, cols}, type), dy = in.normal({n, rows}, type);
  for (const at::ScalarType result : {type, at::kFloat}) {
    const at::Tensor out = in.normal({n, rows}, result), dx = in.normal({n, cols}, result);
    // A sum of k products of size at most (largest normal number drawn)²; results are about the root of it.
    expect_alike({x, w, out}, cols * 16.0, "forward",
                 [&](const Arithmetic& a, const auto& t) { a.product_forward(t[0], t[1], t[2]); });
    for (const bool accumulate : {false, true})
      expect_alike({dy, w, dx}, rows * 16.0, "input gradient",
                   [&](const Arithmetic& a, const auto& t) { a.product_input_gradient(t[0], t[1], t[2], accumulate); });
  }
  for (const bool accumulate : {false, true})
    expect_alike({dy, x, in.normal({rows, cols})}, n * 16.0, "weight gradient",
                 [&](const Arithmetic& a, const auto& t) { a.product_weight_gradient(t[0], t[1], t[2], accumulate); });
}

TEST_P(Operands, AttentionIsTheHostsAcrossBlocksWindowsAndGroups) {
  const at::ScalarType type = GetParam();
  Inputs in;
  const std::int64_t windows = 2, length = 300, d = 24;  // more than one block of queries
  for (const auto& [heads, kv_heads] : std::vector<std::pair<std::int64_t, std::int64_t>>{{4, 2}, {3, 3}, {3, 1}})
    for (const std::int64_t sliding_window : {0, 1, 70}) {
      SCOPED_TRACE(testing::Message() << heads << " heads, " << kv_heads << " of keys, window " << sliding_window);
      const auto shaped = [&](std::int64_t count) { return in.normal({windows, length, count, d}, type); };
      const std::vector<at::Tensor> tensors = {
          shaped(heads), shaped(kv_heads), shaped(kv_heads), shaped(heads),   at::zeros({windows, heads, length}),
          shaped(heads), shaped(heads),    shaped(kv_heads), shaped(kv_heads)};
      // As in the host's own test: a score errs by d roundings of its size (about 10), which the softmax carries to
      // its weights; sums are over length. What is rounded to bf16 on the way differs by a step in some weights.
      const double f32_roundings = static_cast<double>(10 * d + length) * 5;
      const double roundings = type == at::kFloat ? f32_roundings : f32_roundings + kBf16Epsilon / kEpsilon;
      expect_alike(tensors, 10 * roundings, "attention", [&](const Arithmetic& a, const auto& t) {
        const Attention attention{t[0], t[1], t[2], t[3], t[4], sliding_window};
        a.attend(attention);
        a.attend_backward(attention, {t[5], t[6], t[7], t[8]});
      });
    }
}

TEST_P(Operands, LossesAndTheEmbeddingsGradientAreTheHosts) {
  const at::ScalarType type = GetParam();
  Inputs in;
  const std::int64_t n = 11, vocab = 83, hidden = 29;
  const std::vector<std::int64_t> next = {4, -1, 82, 0, 0, 17, -1, -1, 5, 81, 3};
  const at::Tensor logits = in.normal({n, vocab}) * 5, reference = in.normal({n, vocab}) * 5;
  for (const bool kl : {false, true})
    for (const bool with_gradient : {false, true}) {
      // Exponentials within 2 units of the last place, sums over the vocabulary, logits up to 20.
      expect_alike({logits, kl ? reference : at::Tensor(), with_gradient ? in.normal({n, vocab}, type) : at::Tensor(),
                    at::zeros({n}), at::zeros({n}, at::kByte)},
                   2 + static_cast<double>(vocab), "losses", [&](const Arithmetic& a, const auto& t) {
                     a.token_losses({t[0], t[1], next, 0.125f, t[2]}, {t[3].template data_ptr<float>(), next.size()},
                                    {t[4].template data_ptr<std::uint8_t>(), next.size()});
                   });
    }
  // More tokens than are added up together, most of them equal.
  const std::int64_t tokens = 1100;
  at::Tensor ids = at::empty({4, tokens / 4}, at::kLong);
  const CounterRng rng(3);
  for (std::int64_t i = 0; i < tokens; ++i)
    ids.data_ptr<std::int64_t>()[i] = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(i), 7));
  expect_alike({in.normal({9, hidden}), at::zeros({tokens, hidden})}, 0, "look-up",
               [&](const Arithmetic& a, const auto& t) { a.look_up(t[0], ids, t[1]); });
  for (const bool squared : {false, true})
    expect_alike({in.normal({tokens, hidden}), in.normal({9, hidden})}, static_cast<double>(tokens),
                 "embedding's gradient",
                 [&](const Arithmetic& a, const auto& t) { a.add_embedding_gradient(ids, t[0], squared, t[1]); });
}

TEST_P(Operands, PiecesJoinWithoutASeam) {
  const at::ScalarType type = GetParam();
  Inputs in;
  const at::Tensor few = in.normal({1 << 16});
  // Large ones repeat what is drawn, out of step with their rows.
  const auto large = [&](std::int64_t rows, std::int64_t cols, at::ScalarType of) {
    return few.repeat({rows * cols / few.numel() + 1}).narrow(0, 0, rows * cols).view({rows, cols}).to(of);
  };
  const std::int64_t n = kTensorPiece / 999 + 2, width = 999;  // a piece and a little
  expect_alike({large(n, width, type), large(n, width, type), large(n, width, type)}, 10, "swiglu_backward",
               [](const Arithmetic& a, const auto& t) { a.swiglu_backward(t[0], t[1], t[2]); });
  expect_alike({large(n, width, at::kFloat), large(n, width, type), in.normal({width}), at::zeros({n, width}),
                at::zeros({n, width}, type)},
               4 * (width + 10.0), "add_norm",
               [](const Arithmetic& a, const auto& t) { a.add_norm(t[0], t[1], {t[2], {}, 0.25}, t[3], t[4]); });
  if (type != at::kFloat) {  // operands are widened: weight gradients add up pieces of tokens, logits are joined
    const std::int64_t many = kOperandPiece / width + 2;
    expect_alike({large(many, 7, type), large(many, width - 7, type), at::zeros({7, width - 7})}, many * 16.0,
                 "weight gradient",
                 [](const Arithmetic& a, const auto& t) { a.product_weight_gradient(t[0], t[1], t[2], false); });
    expect_alike({large(3, width, type), large(many, width, type), at::zeros({3, many})}, width * 16.0, "logits",
                 [](const Arithmetic& a, const auto& t) { a.product_forward(t[0], t[1], t[2]); });
  }
  const std::vector<std::int64_t> next = {5, -1, 90'000, 0, 1};
  const std::int64_t vocab = kTensorPiece / 2 - 1;
  expect_alike({large(5, vocab, at::kFloat), large(5, vocab, type), at::zeros({5})}, 2 + std::sqrt(vocab), "losses",
               [&](const Arithmetic& a, const auto& t) {
                 a.token_losses({t[0], {}, next, 0.5f, t[1]}, {t[2].template data_ptr<float>(), next.size()}, {});
               });
  const std::int64_t windows = 15, length = 600, heads = 8, d = 4;  // more windows than run together
  const auto shaped = [&] { return large(windows * length * heads, d, type).view({windows, length, heads, d}); };
  const double roundings = (10.0 * d + length) * 5 + (type == at::kFloat ? 0 : kBf16Epsilon / kEpsilon);
  expect_alike({shaped(), shaped(), shaped(), shaped(), at::zeros({windows, heads, length}), shaped(), shaped(),
                shaped(), shaped()},
               10 * roundings, "attention", [](const Arithmetic& a, const auto& t) {
                 const Attention attention{t[0], t[1], t[2], t[3], t[4], 0};
                 a.attend(attention);
                 a.attend_backward(attention, {t[5], t[6], t[7], t[8]});
               });
}

class TensorDecoder : public testing::TestWithParam<const char*> {
 protected:
  const Golden golden_ = read_golden(GetParam());
  const ModelSpec& spec_ = golden_.checkpoint.spec;
  const std::int64_t windows_ = golden_.ids.size(0), length_ = golden_.ids.size(1);
  CheckpointWeights weights_{golden_.checkpoint};

  DecoderOptions options(Compute compute = Compute::f32, std::uint64_t budget = 0) const {
    return {compute, budget, tensor_place(at::kCPU)};
  }
  /// A budget that holds one window in flight and nothing of the batch besides: all else lies in host memory.
  std::uint64_t one_window(at::ScalarType operand) const { return staged_window_bytes(spec_, operand, length_); }
};
INSTANTIATE_TEST_SUITE_P(TensorArithmetic, TensorDecoder,
                         testing::Values("llama", "llama3_rope", "linear_rope", "mistral", "qwen2", "qwen3", "opt"),
                         [](const auto& family) { return std::string(family.param); });

TEST_P(TensorDecoder, LossAndGradientsEqualTransformersWhereverTheBatchLies) {
  for (const std::uint64_t budget : {std::uint64_t{0}, one_window(at::kFloat)}) {
    SCOPED_TRACE(budget);
    Decoder decoder(spec_, weights_, options(Compute::f32, budget));
    Recorder recorder;
    const LossResult result = decoder.loss_and_gradients(golden_.ids, {}, recorder);
    EXPECT_NEAR(result.mean, golden_.loss, 2 * rounding(spec_, length_) * largest(golden_.logits));
    EXPECT_EQ(recorder.input_calls, spec_.layers * 4 * (budget == 0 ? 1 : windows_)) << "cut as the budget asks";
    ASSERT_EQ(recorder.gradients.size(), golden_.gradients.size());
    for (const auto& [name, expected] : golden_.gradients)
      EXPECT_LE(difference(recorder.gradients.at(name), expected),
                2 * rounding(spec_, windows_ * length_) * largest(expected))
          << name;
    EXPECT_LE(difference(decoder.logits(golden_.ids), golden_.logits),
              rounding(spec_, length_) * largest(golden_.logits));
    EXPECT_NEAR(decoder.loss(golden_.ids, {}).mean, result.mean, 2 * rounding(spec_, length_) * result.mean);
  }
  Decoder starved(spec_, weights_, options(Compute::f32, one_window(at::kFloat) - 1));
  Recorder recorder;
  EXPECT_THROW(starved.loss_and_gradients(golden_.ids, {}, recorder), Error);
}

TEST_P(TensorDecoder, TokenGradientsAndDivergencesAreTheHosts) {
  CheckpointWeights reference(golden_.checkpoint);
  const LossTarget target{LossTarget::Kind::kl, Decoder(spec_, reference).hidden(golden_.ids).mul(1.1).contiguous(),
                          reference.head()};
  const auto recorded = [&](const DecoderOptions& how, LossResult& result) {
    Decoder decoder(spec_, weights_, how);
    Recorder recorder;
    recorder.wanted_kind = GradientKind::tokens;
    result = decoder.loss_and_gradients(golden_.ids, target, recorder);
    return recorder.gradients;
  };
  LossResult host_result;
  const auto host = recorded({}, host_result);
  for (const std::uint64_t budget : {std::uint64_t{0}, one_window(at::kFloat)}) {
    LossResult result;
    const auto tensors = recorded(options(Compute::f32, budget), result);
    EXPECT_NEAR(result.mean, host_result.mean, 4 * rounding(spec_, length_) * largest(golden_.logits));
    EXPECT_EQ(result.top1_agreements, host_result.top1_agreements);
    double largest_of_all = 0;
    for (const auto& [name, expected] : host) largest_of_all = std::max(largest_of_all, largest(expected));
    for (const auto& [name, expected] : host)
      EXPECT_LE(difference(tensors.at(name), expected), 4 * rounding(spec_, length_) * largest_of_all) << name;
  }
}

TEST_P(TensorDecoder, Bf16OperandsAreRoundedWhereTheHostRoundsThem) {
  for (const std::uint64_t budget : {std::uint64_t{0}, one_window(at::kBFloat16)}) {
    Recorder host, tensors;
    const double host_loss =
        Decoder(spec_, weights_, {.compute = Compute::bf16}).loss_and_gradients(golden_.ids, {}, host).mean;
    const double loss =
        Decoder(spec_, weights_, options(Compute::bf16, budget)).loss_and_gradients(golden_.ids, {}, tensors).mean;
    // The host's own bound against transformers (graph_test.cpp): a dozen roundings a layer, forward and backward. Two
    // that round alike but where sums fall on the other side of a step differ by no more than each from the exact ones.
    const double tolerance = 4 * std::sqrt(2.0 * 12.0 * static_cast<double>(spec_.layers)) * kBf16Epsilon / 2;
    EXPECT_NEAR(loss, host_loss, tolerance * host_loss);
    double squares = 0, error_squares = 0, exact_squares = 0;
    for (const auto& [name, expected] : host.gradients) {
      squares += std::pow(length_of(expected), 2);
      error_squares += std::pow(length_of(tensors.gradients.at(name).sub(expected)), 2);
      exact_squares += std::pow(length_of(golden_.gradients.at(name).sub(expected)), 2);
    }
    EXPECT_LE(std::sqrt(error_squares / squares), tolerance);
    EXPECT_LE(error_squares, exact_squares) << "nearer to the host's bf16 than the host's bf16 is to f32";
  }
}

TEST_P(TensorDecoder, RepeatsItselfExactly) {
  Decoder decoder(spec_, weights_, options());
  Recorder first, second;
  EXPECT_EQ(decoder.loss_and_gradients(golden_.ids, {}, first).token_losses,
            decoder.loss_and_gradients(golden_.ids, {}, second).token_losses);
  for (const auto& [name, gradient] : first.gradients) EXPECT_TRUE(gradient.equal(second.gradients.at(name))) << name;
}

}  // namespace
}  // namespace scalebits
