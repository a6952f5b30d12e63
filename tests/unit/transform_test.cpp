// transform: each rewrite moves weights and leaves the logits of an independent decoder, written here in double, where
// they were; forgetting any one tensor of a rewrite moves them far.
//
// The tolerance. A rewrite rounds each weight to f32, an error of at most half a unit in its last place (a chain of
// rewrites: so often as it has rewrites); all else is in double. How far such errors carry to the logits is the model's
// own conditioning, so it is measured on the model: the largest change of a logit when every weight moves by a whole
// unit in its last place, up or down at random, in kDraws draws. A rewrite is one more such draw, at most twice as
// large; kMargin covers that and the tail of the draws. A forgotten tensor must move a logit kFar times as far.
#include "transform/fold_norms.h"
#include "transform/permute.h"
#include "transform/rotate.h"

#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

namespace scalebits {
namespace {

constexpr double kMargin = 8, kFar = 100;
constexpr std::uint64_t kDraws = 4;

using Vector = std::vector<double>;

double dot(const Vector& a, const Vector& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

/// y = W x + b of one linear layer of the checkpoint; b where there is one.
Vector linear(const Checkpoint& model, const std::string& name, const Vector& x) {
  const std::vector<float> weight = model.tensor(name).to_f32();
  Vector y(weight.size() / x.size());
  for (std::size_t row = 0; row < y.size(); ++row)
    for (std::size_t col = 0; col < x.size(); ++col) y[row] += double(weight[row * x.size() + col]) * x[col];
  const auto bias = model.tensors.find(name.substr(0, name.rfind('.')) + ".bias");
  if (bias != model.tensors.end()) {
    const std::vector<float> values = bias->second.to_f32();
    for (std::size_t row = 0; row < y.size(); ++row) y[row] += values[row];
  }
  return y;
}

Vector rms_norm(const Checkpoint& model, const std::string& name, Vector x) {
  const std::vector<float> weight = model.tensor(name).to_f32();
  const double square = dot(x, x) / static_cast<double>(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= weight[i] / std::sqrt(square + model.spec.norm_eps);
  return x;
}

/// A norm of the residual stream.
Vector stream_norm(const Checkpoint& model, const std::string& name, Vector x) {
  if (model.spec.norm == NormKind::rms) return rms_norm(model, name, x);
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  for (double& value : x) value -= mean;
  x = rms_norm(model, name, x);
  const std::vector<float> bias = model.tensor(norm_bias_name(name)).to_f32();
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += bias[i];
  return x;
}

/// One head of q or k at a position: its norm, when the model has them, then the rotary embedding of halves.
Vector rotary_head(const Checkpoint& model, const Vector& all, std::int64_t head, int position,
                   const std::string& norm) {
  const std::int64_t dim = model.spec.head_dim;
  Vector x(all.begin() + head * dim, all.begin() + (head + 1) * dim);
  if (model.spec.qk_norm) x = rms_norm(model, norm, x);
  if (model.spec.positions == PositionKind::learned) return x;
  Vector y = x;
  for (std::int64_t i = 0; i < dim / 2; ++i) {
    const double angle = position * std::pow(model.spec.rope_theta, -2.0 * double(i) / double(dim));
    y[i] = x[i] * std::cos(angle) - x[i + dim / 2] * std::sin(angle);
    y[i + dim / 2] = x[i + dim / 2] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

void attention(const Checkpoint& model, std::int64_t layer, std::vector<Vector>& stream) {
  const ModelSpec& spec = model.spec;
  const std::int64_t dim = spec.head_dim, group = spec.heads / spec.kv_heads;
  std::vector<std::vector<Vector>> keys(spec.kv_heads);
  std::vector<Vector> values;
  for (std::size_t t = 0; t < stream.size(); ++t) {
    const Vector x = stream_norm(model, layer_tensor(layer, "input_layernorm.weight"), stream[t]);
    const Vector q = linear(model, linear_name(layer, LinearKind::q), x);
    const Vector k = linear(model, linear_name(layer, LinearKind::k), x);
    values.push_back(linear(model, linear_name(layer, LinearKind::v), x));
    for (std::int64_t head = 0; head < spec.kv_heads; ++head)
      keys[head].push_back(rotary_head(model, k, head, int(t), layer_tensor(layer, "self_attn.k_norm.weight")));
    Vector mixed(spec.heads * dim);
    for (std::int64_t head = 0; head < spec.heads; ++head) {
      const Vector query = rotary_head(model, q, head, int(t), layer_tensor(layer, "self_attn.q_norm.weight"));
      Vector weight;
      for (const Vector& key : keys[head / group]) weight.push_back(std::exp(dot(query, key) / std::sqrt(double(dim))));
      const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
      for (std::size_t s = 0; s <= t; ++s)
        for (std::int64_t i = 0; i < dim; ++i)
          mixed[head * dim + i] += weight[s] / sum * values[s][head / group * dim + i];
    }
    const Vector out = linear(model, linear_name(layer, LinearKind::o), mixed);
    for (std::size_t i = 0; i < out.size(); ++i) stream[t][i] += out[i];
  }
}

void mlp(const Checkpoint& model, std::int64_t layer, Vector& stream) {
  const Vector x = stream_norm(model, layer_tensor(layer, "post_attention_layernorm.weight"), stream);
  const Vector up = linear(model, linear_name(layer, LinearKind::up), x);
  Vector inner = model.spec.mlp == MlpKind::relu ? up : linear(model, linear_name(layer, LinearKind::gate), x);
  for (std::size_t i = 0; i < inner.size(); ++i)
    inner[i] = model.spec.mlp == MlpKind::relu ? std::max(up[i], 0.0) : inner[i] * up[i] / (1 + std::exp(-inner[i]));
  const Vector out = linear(model, linear_name(layer, LinearKind::down), inner);
  for (std::size_t i = 0; i < out.size(); ++i) stream[i] += out[i];
}

/// Logits of all positions, one after the other.
Vector logits(const Checkpoint& model) {
  std::vector<Vector> stream;
  const std::vector<float> embedding = model.tensor(kEmbeddingName).to_f32();
  for (const std::int64_t id : {3, 17, 1, 8, 29, 3, 11}) {
    const auto row = embedding.begin() + id * model.spec.hidden;
    stream.emplace_back(row, row + model.spec.hidden);
    if (model.spec.positions == PositionKind::rotary) continue;
    const std::vector<float> table = model.tensor(kPositionsName).to_f32();
    const std::size_t at = stream.size() - 1 + static_cast<std::size_t>(model.spec.position_offset);
    for (std::size_t i = 0; i < stream.back().size(); ++i) stream.back()[i] += table[at * stream.back().size() + i];
  }
  Vector all;
  for (std::int64_t layer = 0; layer < model.spec.layers; ++layer) {
    attention(model, layer, stream);
    for (Vector& x : stream) mlp(model, layer, x);
  }
  for (const Vector& x : stream) {
    const Vector y = linear(model, std::string(model.spec.tied_head ? kEmbeddingName : kHeadName),
                            stream_norm(model, std::string(kFinalNormName), x));
    all.insert(all.end(), y.begin(), y.end());
  }
  return all;
}

double largest_difference(const Vector& a, const Vector& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

/// 24 channels: 8 is their largest power of two, so that the Hadamard rotation has blocks. No two dimensions are equal.
Checkpoint random_model(const std::function<void(ModelSpec&)>& change) {
  Checkpoint model;
  ModelSpec& spec = model.spec;
  spec.layers = 2, spec.hidden = 24, spec.intermediate = 40, spec.heads = 6, spec.kv_heads = 2, spec.head_dim = 6;
  spec.vocab = 32, spec.max_positions = 16;
  change(spec);
  std::uint64_t stream = 0;
  for (const auto& [name, shape] : required_tensors(spec)) {
    const CounterRng rng(7, stream++);
    const bool is_norm = name.find("norm") != std::string::npos;
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    std::vector<float> values;
    for (std::int64_t i = 0; i < count; ++i)
      values.push_back(static_cast<float>(is_norm ? 0.5 + rng.uniform(i) : 0.25 * rng.normal(i)));
    model.tensors[name] = HostTensor::from_f32(shape, std::move(values));
  }
  model.source = "random";
  model.hash = "start";
  return model;
}

double tolerance(const Checkpoint& model) {
  const Vector exact = logits(model);
  double largest = 0;
  for (std::uint64_t draw = 0; draw < kDraws; ++draw) {
    Checkpoint moved = model;
    std::uint64_t stream = 100 * (draw + 1);
    for (auto& [name, tensor] : moved.tensors) {
      const CounterRng rng(9, stream++);
      std::vector<float> values = tensor.to_f32();
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = std::nextafter(values[i], rng.bits(i) >> 63 ? INFINITY : -INFINITY);
      tensor = HostTensor::from_f32(tensor.shape, std::move(values));
    }
    largest = std::max(largest, largest_difference(exact, logits(moved)));
  }
  return kMargin * largest;
}

ChannelPermutation random_order(std::int64_t count, std::uint64_t seed) {
  ChannelPermutation order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0u);
  const CounterRng rng(seed);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i, i)]);
  return order;
}

ChannelPermutations random_permutations(const ModelSpec& spec, bool residual, bool intermediate, bool values) {
  ChannelPermutations permutations;
  if (residual) permutations.residual = random_order(spec.hidden, 1);
  for (std::int64_t layer = 0; layer < spec.layers; ++layer) {
    if (intermediate) permutations.intermediate.push_back(random_order(spec.intermediate, 10 + layer));
    if (!values) continue;
    permutations.values.emplace_back();
    for (std::int64_t head = 0; head < spec.kv_heads; ++head)
      permutations.values.back().push_back(random_order(spec.head_dim, 100 + 10 * layer + head));
  }
  return permutations;
}

struct Rewrite {
  std::string name;
  std::function<Checkpoint(const Checkpoint&)> apply;
};

/// Those that the model has room for: LayerNorm is neither folded nor rotated.
std::vector<Rewrite> rewrites(const ModelSpec& spec) {
  const auto rotated = [](RotationKind kind) {
    return [kind](const Checkpoint& model) { return rotate_residual(fold_norms(model), {.kind = kind, .seed = 5}); };
  };
  const auto permuted = [](bool residual, bool intermediate, bool values) {
    return [=](const Checkpoint& model) {
      return permute(model, random_permutations(model.spec, residual, intermediate, values));
    };
  };
  if (spec.norm == NormKind::layer)
    return {{"residual", permuted(true, false, false)},
            {"intermediate", permuted(false, true, false)},
            {"values", permuted(false, false, true)},
            {"all", permuted(true, true, true)}};
  return {{"fold", fold_norms},
          {"givens", rotated(RotationKind::givens)},
          {"hadamard", rotated(RotationKind::hadamard)},
          {"residual", permuted(true, false, false)},
          {"intermediate", permuted(false, true, false)},
          {"values", permuted(false, false, true)},
          {"all", [=](const Checkpoint& model) {
             return permuted(true, true, true)(
                 rotate_residual(rotated(RotationKind::givens)(model), {.kind = RotationKind::hadamard}));
           }}};
}

struct Model {
  const char* name;
  std::function<void(ModelSpec&)> change;
};

void opt_like(ModelSpec& spec) {
  spec.family = Family::opt;
  spec.norm = NormKind::layer, spec.mlp = MlpKind::relu;
  spec.positions = PositionKind::learned, spec.position_offset = 2;
  spec.qkv_bias = spec.o_bias = spec.mlp_bias = spec.tied_head = true;
}

class Transform : public testing::TestWithParam<Model> {};

bool same_values(const HostTensor& a, const HostTensor& b) { return a.shape == b.shape && a.to_f32() == b.to_f32(); }

TEST_P(Transform, KeepsTheFunctionAndChangesWeights) {
  const Checkpoint model = random_model(GetParam().change);
  const Vector wanted = logits(model);
  const double allowed = tolerance(model);
  ASSERT_LT(allowed, 1e-3);
  std::set<std::string> hashes = {model.hash};
  for (const Rewrite& rewrite : rewrites(model.spec)) {
    const Checkpoint rewritten = rewrite.apply(model);
    EXPECT_LE(largest_difference(wanted, logits(rewritten)), allowed) << rewrite.name;
    EXPECT_TRUE(hashes.insert(rewritten.hash).second) << rewrite.name << ": the hash is not new";
    std::set<std::string> names;
    for (const auto& [name, shape] : required_tensors(rewritten.spec)) {
      EXPECT_EQ(rewritten.tensor(name).shape, shape) << rewrite.name << ": " << name;
      names.insert(name);
    }
    EXPECT_EQ(rewritten.tensors.size(), names.size()) << rewrite.name << ": tensors that the model does not have";
    const auto unchanged = [&](LinearKind kind) {
      return same_values(rewritten.tensor(linear_name(1, kind)), model.tensor(linear_name(1, kind)));
    };
    EXPECT_FALSE(unchanged(LinearKind::v) && unchanged(LinearKind::up)) << rewrite.name << ": nothing changed";
  }
}

TEST_P(Transform, ForgettingOneTensorShows) {
  const Checkpoint model = random_model(GetParam().change);
  const Vector wanted = logits(model);
  const double allowed = tolerance(model);
  for (const Rewrite& rewrite : rewrites(model.spec)) {
    const Checkpoint rewritten = rewrite.apply(model);
    for (const auto& [name, tensor] : rewritten.tensors) {
      const auto before = model.tensors.find(name);
      const HostTensor& old = before == model.tensors.end() ? model.tensor(kEmbeddingName) : before->second;
      if (same_values(old, tensor)) continue;
      Checkpoint wrong = rewritten;
      wrong.tensors[name] = old;
      EXPECT_GE(largest_difference(wanted, logits(wrong)), kFar * allowed) << rewrite.name << " without " << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, Transform,
    testing::Values(Model{"llama", [](ModelSpec&) {}}, Model{"tied", [](ModelSpec& spec) { spec.tied_head = true; }},
                    Model{"biases", [](ModelSpec& spec) { spec.qkv_bias = spec.o_bias = spec.mlp_bias = true; }},
                    Model{"qwen3", [](ModelSpec& spec) { spec.qk_norm = spec.tied_head = true; }},
                    Model{"opt", opt_like}),
    [](const auto& tested) { return tested.param.name; });

TEST(LayerNorm, IsNeitherFoldedNorRotated) {
  const Checkpoint model = random_model(opt_like);
  const auto message = [&](const auto& rewrite) -> std::string {
    try {
      rewrite(model);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(message([](const Checkpoint& c) { fold_norms(c); }).find("random: norms can be folded"), std::string::npos);
  EXPECT_NE(message([](const Checkpoint& c) { rotate_residual(c, {}); }).find("subtracts the mean"), std::string::npos);
}

TEST(FoldNorms, LeavesNormsOfOneAndAnUntiedHead) {
  const Checkpoint folded = fold_norms(random_model([](ModelSpec& spec) { spec.tied_head = spec.qk_norm = true; }));
  EXPECT_FALSE(folded.spec.tied_head);
  for (const auto& [name, tensor] : folded.tensors)
    if (tensor.shape == std::vector<std::int64_t>{24}) {
      EXPECT_EQ(tensor.to_f32(), std::vector<float>(24, 1.0f)) << name;
    }
  EXPECT_NE(folded.tensor(layer_tensor(0, "self_attn.q_norm.weight")).to_f32(), std::vector<float>(6, 1.0f));
}

/// R, row by row: the images of the unit vectors.
std::vector<Vector> matrix_of(const Rotation& rotation, std::size_t channels) {
  std::vector<Vector> rows(channels, Vector(channels));
  for (std::size_t i = 0; i < channels; ++i) {
    rows[i][i] = 1;
    rotation.apply(rows[i]);
  }
  return rows;
}

TEST(Rotation, IsOrthogonal) {
  for (const RotationKind kind : {RotationKind::givens, RotationKind::hadamard})
    for (const std::size_t channels : {2u, 24u, 32u, 50u}) {
      const std::vector<Vector> rows = matrix_of(Rotation(std::int64_t(channels), {.kind = kind}), channels);
      for (std::size_t i = 0; i < channels; ++i)
        for (std::size_t j = 0; j < channels; ++j)
          // A product of at most 32 terms, each within a few 2^-53 of one below 1.
          EXPECT_NEAR(dot(rows[i], rows[j]), i == j, 1e-14);
    }
}

TEST(Rotation, TurnsDisjointPairsByModerateAngles) {
  const std::vector<Vector> rows = matrix_of(Rotation(50, {.seed = 3, .pairs = 20}), 50);
  int turned = 0, positive = 0;
  for (std::size_t i = 0; i < 50; ++i) {
    const auto others = std::count_if(rows[i].begin(), rows[i].end(), [](double value) { return value != 0; }) - 1;
    EXPECT_EQ(others, rows[i][i] == 1 ? 0 : 1);
    if (rows[i][i] == 1) continue;
    ++turned;
    EXPECT_GE(rows[i][i], std::cos(0.6));
    EXPECT_LE(rows[i][i], std::cos(0.2));
    for (std::size_t j = i + 1; j < 50; ++j) positive += rows[i][j] > 0;
  }
  EXPECT_EQ(turned, 40);
  EXPECT_GT(positive, 2) << "20 signs, all but the same";
  EXPECT_LT(positive, 18) << "20 signs, all but the same";
}

TEST(Rotation, HadamardSpreadsEachChannelEvenlyOverItsBlock) {
  for (const auto& [channels, block] : {std::pair<std::size_t, int>{24, 8}, {32, 32}})
    for (const Vector& row : matrix_of(Rotation(std::int64_t(channels), {.kind = RotationKind::hadamard}), channels)) {
      int spread = 0;
      for (const double value : row) {
        if (value == 0) continue;
        EXPECT_DOUBLE_EQ(std::abs(value), 1 / std::sqrt(block));
        ++spread;
      }
      EXPECT_EQ(spread, block);
    }
}

TEST(Rotation, FollowsItsSeed) {
  for (const RotationKind kind : {RotationKind::givens, RotationKind::hadamard}) {
    const auto seeded = [&](std::uint64_t seed) { return matrix_of(Rotation(24, {.kind = kind, .seed = seed}), 24); };
    EXPECT_EQ(seeded(1), seeded(1));
    EXPECT_NE(seeded(1), seeded(2));
  }
}

/// `call` must throw an Error whose message holds `part`.
void expect_error(const std::function<void()>& call, const std::string& part) {
  try {
    call();
    ADD_FAILURE() << "no error; wanted one with '" << part << "'";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nwanted: " << part;
  }
}

TEST(Rotation, RefusesWhatItCannotDo) {
  const Checkpoint model = random_model([](ModelSpec&) {});
  expect_error([&] { rotate_residual(model, {}); }, "model.layers.0.input_layernorm.weight");
  expect_error([] { Rotation(24, {.pairs = 13}); }, "1 to 12 pairs, found 13");
  expect_error([] { Rotation(24, {.pairs = -1}); }, "found -1");
  expect_error([] { Rotation(25, {.kind = RotationKind::hadamard}); }, "found 25");
  expect_error([] { rotation_kind_from_name("fourier"); }, "fourier");
}

TEST(Permute, PutsChannelOrderOfIAtI) {
  Checkpoint model = random_model([](ModelSpec&) {});
  ChannelPermutations permutations;
  permutations.residual = random_order(24, 3);
  const std::vector<float> before = model.tensor(kEmbeddingName).to_f32();
  const std::vector<float> after = permute(model, permutations).tensor(kEmbeddingName).to_f32();
  for (std::size_t row = 0; row < 32; ++row)
    for (std::size_t i = 0; i < 24; ++i) EXPECT_EQ(after[24 * row + i], before[24 * row + permutations.residual[i]]);
}

TEST(Permute, KeepsSixteenBitTensorsAsTheyAre) {
  Checkpoint model = random_model([](ModelSpec&) {});
  auto bits = std::make_shared<std::vector<std::uint16_t>>();
  for (const float value : model.tensor(linear_name(0, LinearKind::down)).to_f32()) bits->push_back(f32_to_bf16(value));
  HostTensor& down = model.tensors[linear_name(0, LinearKind::down)];
  down = {DType::bf16, down.shape, std::as_bytes(std::span(*bits)), bits};
  const Checkpoint permuted = permute(model, random_permutations(model.spec, true, true, true));
  EXPECT_EQ(permuted.tensor(linear_name(0, LinearKind::down)).dtype, DType::bf16);
  // No weight is rounded: only the order of sums in double differs.
  EXPECT_LE(largest_difference(logits(model), logits(permuted)), 1e-12);
}

TEST(Permute, RefusesWhatIsNoPermutation) {
  const Checkpoint model = random_model([](ModelSpec&) {});
  const auto expect_spoiled = [&](const std::function<void(ChannelPermutations&)>& spoil, const std::string& part) {
    ChannelPermutations permutations = random_permutations(model.spec, true, true, true);
    spoil(permutations);
    expect_error([&] { permute(model, permutations); }, part);
  };
  expect_spoiled([](auto& p) { p.residual.pop_back(); }, "residual stream must have 24 entries, found 23");
  expect_spoiled([](auto& p) { p.residual[3] = p.residual[4]; }, "there twice");
  expect_spoiled([](auto& p) { p.intermediate[1][0] = 40; }, "layer 1's intermediate channels");
  expect_spoiled([](auto& p) { p.intermediate.pop_back(); }, "must be 2 or none, found 1");
  expect_spoiled([](auto& p) { p.values[1][1][5] = 6; }, "layer 1, KV head 1");
  expect_spoiled([](auto& p) { p.values[0].pop_back(); }, "must be 2 or none, found 1");
}

}  // namespace
}  // namespace scalebits
