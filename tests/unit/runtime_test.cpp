// Contract of the runtime: it computes what Hugging Face transformers computes (golden logits), from dense tensors and
// from packed ones; results are the same bits however tokens are cut into calls, chunks, batches and threads and on
// every instruction set; a kept prefix is as good as a new reading; a wrong call is an error that changes nothing.
#include "runtime/session.h"

#include "artifact/artifact.h"
#include "bench/random_artifact.h"
#include "core/error.h"
#include "core/random.h"
#include "resident_bytes.h"
#include "runtime/row_math.h"
#include "safetensors/safetensors.h"
#include "tiny_models.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

namespace scalebits {
namespace {

using testing_models::TemporaryFolder;
using testing_models::tiny_checkpoint;
using Tokens = std::vector<std::int32_t>;
using Logits = std::vector<float>;

constexpr double kEpsilon = 0x1p-23;

struct Golden {
  Checkpoint checkpoint;
  std::int64_t windows = 0, length = 0;
  Tokens ids;     // [windows, length]
  Logits logits;  // [windows, length, vocab]
};

Golden read_golden(const std::string& name) {
  const auto file =
      SafetensorsFile::open(std::string(SCALEBITS_SOURCE_DIR "/tests/data/graph/") + name + ".safetensors");
  Golden golden;
  golden.checkpoint.spec = model_spec_from_json(parse_json(file.metadata().at("spec"), name), name);
  golden.checkpoint.source = name;
  for (const SafetensorsEntry& entry : file.entries()) {
    if (entry.name == "ids") {
      golden.windows = entry.shape[0], golden.length = entry.shape[1];
      golden.ids.resize(entry.bytes.size() / 4);
      std::memcpy(golden.ids.data(), entry.bytes.data(), entry.bytes.size());
    } else if (entry.name == "logits") {
      golden.logits = HostTensor{DType::f32, entry.shape, entry.bytes, file.file()}.to_f32();
    } else if (!entry.name.starts_with("gradient.")) {
      golden.checkpoint.tensors[entry.name] = {DType::f32, entry.shape, entry.bytes, file.file()};
    }
  }
  return golden;
}

Checkpoint tiny_checkpoint(Family family) { return tiny_checkpoint(testing_models::tiny_spec(family)); }

Tokens some_tokens(std::int64_t count, std::int64_t vocab, std::uint64_t seed = 3) {
  Tokens tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(
        CounterRng(seed).below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocab))));
  return tokens;
}

/// [tokens, vocab], all read by one call.
Logits all_logits(Session& session, std::span<const std::int32_t> tokens) {
  Logits all;
  session.evaluate_all(tokens, [&](std::int64_t first, std::int64_t rows, const float* logits) {
    const std::int64_t vocab = session.model().spec().vocab;
    EXPECT_EQ(first * vocab, static_cast<std::int64_t>(all.size())) << "pieces come in order";
    all.insert(all.end(), logits, logits + rows * vocab);
  });
  return all;
}

Logits all_logits(RuntimeModel& model, std::span<const std::int32_t> tokens, const SessionOptions& options = {}) {
  Session session(model, options);
  return all_logits(session, tokens);
}

Logits copy_of(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

double largest(const Logits& values) {
  double most = 0;
  for (const float value : values) most = std::max(most, std::abs(double(value)));
  return most;
}

double largest_difference(const Logits& a, const Logits& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(double(a[i]) - double(b[i])));
  return most;
}

/// As in graph_test: an f32 dot product of length n errs by at most n epsilon of its terms' size; a layer chains five.
/// Keys and values are rounded to f16 on top: half an f16 epsilon of each, which the softmax multiplies by the scores'
/// size (at most about 4 in these models), in every layer.
double rounding(const ModelSpec& spec, std::int64_t length) {
  const std::int64_t chained =
      2 * spec.hidden + spec.heads * spec.head_dim + spec.head_dim + length + spec.intermediate;
  return static_cast<double>(spec.layers * chained + spec.hidden) * kEpsilon +
         static_cast<double>(spec.layers) * 0x1p-11 * (2 * 4 + 1);
}

class GoldenFamilies : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Runtime, GoldenFamilies,
                         testing::Values("llama", "llama3_rope", "linear_rope", "mistral", "qwen2", "qwen3", "opt"),
                         [](const auto& family) { return std::string(family.param); });

TEST_P(GoldenFamilies, LogitsEqualTransformers) {
  const Golden golden = read_golden(GetParam());
  const auto model = RuntimeModel::from_checkpoint(golden.checkpoint, {.activations = ActivationFormat::f32});
  Logits logits;
  for (std::int64_t window = 0; window < golden.windows; ++window) {
    const auto first = golden.ids.begin() + window * golden.length;
    const Logits some = all_logits(*model, Tokens(first, first + golden.length));
    logits.insert(logits.end(), some.begin(), some.end());
  }
  const double error = largest_difference(logits, golden.logits) / largest(golden.logits);
  RecordProperty("relative_error", std::to_string(error));
  EXPECT_LE(error, rounding(golden.checkpoint.spec, golden.length));
}

class Families : public testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Families,
                         testing::Values(Family::llama, Family::mistral, Family::qwen2, Family::qwen3, Family::opt),
                         [](const auto& family) { return std::string(name_of(family.param)); });

TEST_P(Families, ResultsDoNotDependOnChunksCallsOrThreads) {
  const Checkpoint checkpoint = tiny_checkpoint(GetParam());
  const Tokens tokens = some_tokens(50, checkpoint.spec.vocab);
  for (const KvType kv : {KvType::f16, KvType::i8}) {
    const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
    const Logits expected = all_logits(*model, tokens, {.kv = kv});
    for (const auto& [threads, chunk] : {std::pair(1, 3), {1, 16}, {2, 1}, {2, 64}, {5, 16}}) {
      const auto other = RuntimeModel::from_checkpoint(checkpoint, {.threads = threads, .chunk_tokens = chunk});
      EXPECT_EQ(all_logits(*other, tokens, {.kv = kv}), expected) << threads << " threads, chunks of " << chunk;
    }
    Session session(*model, {.kv = kv});
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const auto at = static_cast<std::ptrdiff_t>(i) * checkpoint.spec.vocab;
      EXPECT_EQ(copy_of(session.evaluate(std::span(tokens).subspan(i, 1))),
                Logits(expected.begin() + at, expected.begin() + at + checkpoint.spec.vocab));
    }
  }
}

TEST_P(Families, SessionsInOneStepDoNotDisturbEachOther) {
  const Checkpoint checkpoint = tiny_checkpoint(GetParam());
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 2, .chunk_tokens = 8});
  const auto vocab = static_cast<std::size_t>(checkpoint.spec.vocab);
  std::vector<Tokens> prompts;
  for (const std::int64_t length : {1, 5, 20, 9})
    prompts.push_back(some_tokens(length, checkpoint.spec.vocab, static_cast<std::uint64_t>(length)));
  std::vector<Session> together, alone;
  together.reserve(prompts.size());
  alone.reserve(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) together.emplace_back(*model), alone.emplace_back(*model);
  // The prompts, then four tokens each, one by one.
  for (int round = 0; round < 5; ++round) {
    std::vector<Tokens> read = prompts;
    for (std::size_t i = 0; round > 0 && i < read.size(); ++i) read[i] = {static_cast<std::int32_t>(round + 4 * i)};
    std::vector<SessionStep> steps;
    for (std::size_t i = 0; i < read.size(); ++i) steps.push_back({&together[i], read[i]});
    const Logits all = copy_of(evaluate(steps));
    ASSERT_EQ(all.size(), read.size() * vocab);
    for (std::size_t i = 0; i < read.size(); ++i) {
      EXPECT_EQ(copy_of(alone[i].evaluate(read[i])),
                Logits(all.begin() + static_cast<std::ptrdiff_t>(i * vocab),
                       all.begin() + static_cast<std::ptrdiff_t>((i + 1) * vocab)));
      EXPECT_EQ(alone[i].length(), together[i].length());
    }
  }
}

TEST(Session, AKeptPrefixIsAsGoodAsANewReading) {
  const Checkpoint checkpoint = tiny_checkpoint(Family::llama);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
  const Tokens first = some_tokens(30, checkpoint.spec.vocab, 1);
  Tokens second(first.begin(), first.begin() + 12);
  const Tokens tail = some_tokens(20, checkpoint.spec.vocab, 2);
  second.insert(second.end(), tail.begin(), tail.end());
  second[12] = (first[12] + 1) % 48;

  Session session(*model);
  session.evaluate(first);
  EXPECT_EQ(session.keep_shared_prefix(second), 12);
  EXPECT_EQ(session.length(), 12);
  const Logits logits = copy_of(session.evaluate(std::span(second).subspan(12)));
  EXPECT_EQ(Tokens(session.tokens().begin(), session.tokens().end()), second);
  Session fresh(*model);
  EXPECT_EQ(copy_of(fresh.evaluate(second)), logits);

  EXPECT_EQ(session.keep_shared_prefix(second), static_cast<std::int64_t>(second.size()) - 1)
      << "the last token is read again for its logits";
  EXPECT_EQ(copy_of(session.evaluate(std::span(second).last(1))), logits);
  EXPECT_EQ(session.keep_shared_prefix(Tokens{first[0] + 1}), 0);
}

TEST(Session, AWrongCallIsAnErrorThatChangesNothing) {
  const Checkpoint checkpoint = tiny_checkpoint(Family::llama);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
  Session session(*model, {.max_positions = 10});
  session.evaluate(Tokens{1, 2, 3});
  const auto message = [&](const Tokens& tokens) -> std::string {
    try {
      session.evaluate(tokens);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(message({4, 48}).find("token 48 is outside the vocabulary of 48"), std::string::npos);
  EXPECT_NE(message({-1}).find("token -1 is outside"), std::string::npos);
  EXPECT_NE(message(Tokens(8, 1)).find("more than the 10 positions"), std::string::npos);
  EXPECT_NE(message({}).find("at least one token"), std::string::npos);
  EXPECT_EQ(session.length(), 3);
  EXPECT_THROW(session.keep(4), InternalError);
  EXPECT_THROW(Session(*model, {.max_positions = -1}), Error);
  EXPECT_THROW(RuntimeModel::from_checkpoint(checkpoint, {.chunk_tokens = 0}), Error);
  EXPECT_THROW(RuntimeModel::from_checkpoint(checkpoint, {.threads = -1}), Error);
  EXPECT_THROW(RuntimeModel::open("no such model"), Error);
  // A step with one bad session reads nothing in the others.
  Session other(*model);
  const Tokens good = {1}, bad = {99};
  EXPECT_THROW(evaluate(std::vector<SessionStep>{{&other, good}, {&session, bad}}), Error);
  EXPECT_EQ(other.length(), 0);
  EXPECT_THROW(evaluate(std::vector<SessionStep>{{&other, good}, {&other, good}}), InternalError);
  session.evaluate(Tokens(7, 5));
  EXPECT_EQ(session.length(), 10);
}

TEST(Session, LearnedPositionsCannotBeExceeded) {
  const Checkpoint checkpoint = tiny_checkpoint(Family::opt);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
  EXPECT_THROW(Session(*model, {.max_positions = checkpoint.spec.max_positions + 1}), Error);
  Session session(*model);
  session.evaluate(Tokens(static_cast<std::size_t>(checkpoint.spec.max_positions), 5));
  EXPECT_THROW(session.evaluate(Tokens{5}), Error);
}

TEST(Session, WeightsThatAreNotFiniteAreAnError) {
  Checkpoint checkpoint = tiny_checkpoint(Family::llama);
  std::vector<float> values = checkpoint.tensor(kFinalNormName).to_f32();
  values[5] = NAN;
  checkpoint.tensors[std::string(kFinalNormName)] = HostTensor::from_f32({checkpoint.spec.hidden}, values);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
  Session session(*model);
  EXPECT_THROW(session.evaluate(Tokens{1}), Error);
}

/// Attention passes over NaN, so a text as short as this would have logits that look like any.
TEST_P(Families, NaNInWhatAttentionIsGivenIsAnError) {
  for (const LinearKind kind : {LinearKind::q, LinearKind::k, LinearKind::v}) {
    Checkpoint checkpoint = tiny_checkpoint(GetParam());
    const std::string name = linear_name(1, kind);
    HostTensor& tensor = checkpoint.tensors[name];
    std::vector<float> values = tensor.to_f32();
    values[0] = NAN;
    tensor = HostTensor::from_f32(tensor.shape, values);
    const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
    for (const KvType kv : {KvType::f16, KvType::i8}) {
      Session session(*model, {.kv = kv});
      try {
        session.evaluate(Tokens{1, 2, 3});
        ADD_FAILURE() << name << " swallowed";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::bad_input);
        EXPECT_NE(std::string(error.what()).find("layer 1 are not finite"), std::string::npos) << error.what();
      }
      EXPECT_EQ(session.length(), 0);
    }
  }
}

TEST(HighestIsa, AnEmptyVariableIsNone) {
  const char* const before = std::getenv("SCALEBITS_ISA");
  const std::string kept = before != nullptr ? before : "";
  ::unsetenv("SCALEBITS_ISA");
  const Isa machines = highest_isa();
  ::setenv("SCALEBITS_ISA", "", 1);
  EXPECT_EQ(highest_isa(), machines);
  ::setenv("SCALEBITS_ISA", "scalar", 1);
  EXPECT_EQ(highest_isa(), Isa::scalar);
  before != nullptr ? ::setenv("SCALEBITS_ISA", kept.c_str(), 1) : ::unsetenv("SCALEBITS_ISA");
}

TEST_P(Families, AllFilesOfOneModelGiveTheSameBits) {
  // Its values are exact in all three types.
  const auto tiny = testing_models::random_model(testing_models::tiny_spec(GetParam()), 3);
  const TemporaryFolder folder;
  Logits expected;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const std::string name(name_of(dtype));
    testing_models::write_hf(tiny, folder / name, dtype);
    std::vector<std::string> files = {name};
    if (GetParam() != Family::opt) {
      files.push_back(name + ".gguf");
      testing_models::write_text(folder / files.back(), testing_models::gguf_bytes(tiny, dtype));
    }
    for (const std::string& file : files) {
      const auto model = RuntimeModel::open(folder / file, {.threads = 1});
      EXPECT_EQ(model->tokenizer(), nullptr);
      EXPECT_THROW(model->require_tokenizer(), Error);
      const Logits logits = all_logits(*model, some_tokens(20, tiny.spec.vocab));
      if (expected.empty()) expected = logits;
      EXPECT_EQ(logits, expected) << file;
    }
  }
}

TEST(Session, TenThousandTokensTakeTheCacheAndNothingMore) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "NOT TESTED: the sanitizer holds freed memory back";
#endif
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  spec.layers = 1, spec.heads = 2, spec.kv_heads = 1, spec.max_positions = 11000;
  const Checkpoint checkpoint = tiny_checkpoint(spec);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
  Session session(*model);
  Tokens token = {1};
  const auto generate_to = [&](std::int64_t length) {
    while (session.length() < length) {
      const auto logits = session.evaluate(token);
      token[0] = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
  };
  generate_to(1000);
  const std::int64_t before = resident_bytes();
  const std::uint64_t cache_before = session.cache_bytes();
  generate_to(10000);
  const auto grown = static_cast<std::uint64_t>(std::max<std::int64_t>(0, resident_bytes() - before));
  const std::uint64_t cache = session.cache_bytes() - cache_before;
  EXPECT_EQ(cache, 9000u * 2 * 8 * 2) << "keys and values, head_dim, f16";
  // Pages, the table of angles (which doubles) and the list of tokens.
  EXPECT_LE(grown, cache + 2 * 16384 * 4 * 4 + 16384 * 4 + (std::uint64_t{1} << 20));
}

/// A packed model with tables and dropped blocks, and the same with the weights that its file stands for.
class PackedModel : public testing::Test {
 protected:
  void write(const RandomArtifactOptions& options) {
    write_random_artifact(folder_ / "a", options, [](std::uint64_t) {});
    artifact_ = std::make_shared<const Artifact>(Artifact::open(folder_ / "a"));
    dense_.spec = artifact_->spec();
    dense_.source = "dequantised";
    for (const TensorShape& tensor : required_tensors(dense_.spec))
      dense_.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, artifact_->dequantize(tensor.name));
  }
  static RandomArtifactOptions small() {
    RandomArtifactOptions options;
    options.layers = 2, options.hidden = 96, options.intermediate = 200, options.heads = 4, options.kv_heads = 2;
    options.vocab = 301, options.max_positions = 128;
    options.widths = WidthMix::parse("0:0.1,2:0.4,3:0.3,5:0.1,8:0.1");
    return options;
  }

  TemporaryFolder folder_;
  std::shared_ptr<const Artifact> artifact_;
  Checkpoint dense_;
};

TEST_F(PackedModel, EqualsItsDequantisedWeightsWithExactActivations) {
  for (const RandomOrders orders : {RandomOrders::none, RandomOrders::site, RandomOrders::free})
    for (const bool tied : {false, true}) {
      RandomArtifactOptions options = small();
      options.orders = orders;
      options.tied_head = tied;
      write(options);
      const Tokens tokens = some_tokens(40, dense_.spec.vocab);
      const RuntimeOptions exact{.threads = 2, .activations = ActivationFormat::f32};
      const auto packed = RuntimeModel::from_artifact(artifact_, exact);
      const auto dense = RuntimeModel::from_checkpoint(dense_, exact);
      const Logits expected = all_logits(*dense, tokens);
      const double error = largest_difference(all_logits(*packed, tokens), expected) / largest(expected);
      EXPECT_LE(error, rounding(dense_.spec, 40));
      const auto rounded = RuntimeModel::from_artifact(artifact_, {.threads = 2});
      // A value of a group of 64 errs by at most 1/254 of the group's largest, about three deviations: 0.7% of a
      // deviation, spread evenly, and so does a product. Some ten of them follow each other, errors independent.
      const Logits i8 = all_logits(*rounded, tokens);
      EXPECT_LE(largest_difference(i8, expected) / largest(expected), 0.007 * std::sqrt(10.0) * 3);
      EXPECT_NE(i8, expected);
    }
}

TEST_F(PackedModel, IsTheSameOnEveryInstructionSetAndAnyNumberOfThreads) {
  write(small());
  const Tokens tokens = some_tokens(40, dense_.spec.vocab);
  for (const ActivationFormat format : {ActivationFormat::i8, ActivationFormat::f32}) {
    const auto scalar =
        RuntimeModel::from_artifact(artifact_, {.threads = 1, .isa = Isa::scalar, .activations = format});
    const Logits expected = all_logits(*scalar, tokens);
    for (const Isa isa : kIsas) {
      if (!machine_has(isa)) {
        std::printf("NOT TESTED: this machine has no %s\n", std::string(name_of(isa)).c_str());
        continue;
      }
      const auto model =
          RuntimeModel::from_artifact(artifact_, {.threads = 3, .isa = isa, .activations = format, .chunk_tokens = 16});
      EXPECT_EQ(all_logits(*model, tokens), expected) << name_of(isa);
    }
  }
}

TEST_F(PackedModel, ProfileAddsUp) {
  write(small());
  const auto model = RuntimeModel::from_artifact(artifact_, {.threads = 1, .chunk_tokens = 16, .profile = true});
  Session session(*model);
  session.evaluate(some_tokens(20, dense_.spec.vocab));
  EXPECT_EQ(model->profile().tokens, 20);
  EXPECT_EQ(model->profile().passes, 2);
  for (std::size_t i = 0; i < kOperations; ++i)
    EXPECT_EQ(model->profile().seconds[i] > 0, static_cast<Operation>(i) != Operation::card) << i;
  EXPECT_GT(model->bytes_per_token(), 0u);
}

TEST(RowMath, EqualsTheDefinition) {
  const CounterRng rng(5);
  for (const std::int64_t width : {1, 15, 16, 17, 64, 100}) {
    Logits x, weight, up;
    for (std::int64_t i = 0; i < width; ++i) {
      x.push_back(static_cast<float>(6 * rng.normal(static_cast<std::uint64_t>(i))));
      weight.push_back(static_cast<float>(rng.normal(static_cast<std::uint64_t>(1000 + i))));
      up.push_back(static_cast<float>(rng.normal(static_cast<std::uint64_t>(2000 + i))));
    }
    double squares = 0;
    for (const float value : x) squares += double(value) * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
    Logits out(x.size());
    rms_norm(x.data(), weight.data(), 1e-5f, width, out.data());
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_NEAR(out[i], x[i] * scale * weight[i], std::abs(out[i]) * static_cast<double>(width + 4) * kEpsilon);
    Logits sum = x, normed(x.size());
    add_then_norm(sum.data(), up.data(), weight.data(), 1e-5f, width, normed.data());
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(sum[i], x[i] + up[i]);
    rms_norm(sum.data(), weight.data(), 1e-5f, width, out.data());
    EXPECT_EQ(out, normed);
    double mean = 0, variance = 0;
    for (const float value : x) mean += value / static_cast<double>(width);
    for (const float value : x) variance += (value - mean) * (value - mean) / static_cast<double>(width);
    layer_norm(x.data(), weight.data(), up.data(), 1e-5f, width, out.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = (x[i] - mean) / std::sqrt(variance + 1e-5) * weight[i] + up[i];
      EXPECT_NEAR(
          out[i], expected,
          (std::abs(expected) + 6 * std::abs(weight[i]) + std::abs(up[i])) * static_cast<double>(width + 4) * kEpsilon);
    }
    Logits positive = x;
    positive.front() = NAN;
    relu(positive.data(), width);
    EXPECT_TRUE(std::isnan(positive.front()));
    for (std::size_t i = 1; i < x.size(); ++i) EXPECT_EQ(positive[i], std::max(x[i], 0.0f));
    Logits gate = x;
    silu_times(gate.data(), up.data(), width);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = x[i] / (1 + std::exp(-double(x[i]))) * up[i];
      EXPECT_NEAR(gate[i], expected, std::abs(expected) * 8 * kEpsilon);
    }
    EXPECT_TRUE(all_finite(x.data(), width));
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      Logits broken = x;
      broken.back() = bad;
      EXPECT_FALSE(all_finite(broken.data(), width));
    }
  }
}

}  // namespace
}  // namespace scalebits
