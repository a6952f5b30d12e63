// The contract of decoding on a card, on the CPU, through the emulated device (kernels/cuda/emulated_device.h), which
// runs all that a card would run but the products' own kernels: whole models, read as prompts, token by token and
// several sequences together, give the CPU's logits up to the roundings of f16 activations, for f16 and 8-bit caches;
// the order of threads changes no bit; memory is what was counted; layers that do not fit run here; what cannot be done
// is an error.
#include "artifact/artifact.h"
#include "bench/random_artifact.h"
#include "core/error.h"
#include "core/random.h"
#include "kernels/cuda/card_device.h"
#include "kernels/cuda/decoder.h"
#include "kernels/cuda/emulated_device.h"
#include "kernels/cuda_decoder_check.h"
#include "kernels/cuda_random_model.h"
#include "runtime/session.h"
#include "tiny_models.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

namespace scalebits {
namespace {

using testing_models::TemporaryFolder;
using testing_models::tiny_checkpoint;
using Tokens = std::vector<std::int32_t>;
using Logits = std::vector<float>;

Tokens some_tokens(std::int64_t count, std::int64_t vocab, std::uint64_t seed = 3) {
  Tokens tokens;
  for (std::int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(
        CounterRng(seed).below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocab))));
  return tokens;
}

Logits all_logits(Session& session, std::span<const std::int32_t> tokens) {
  Logits all;
  session.evaluate_all(tokens, [&](std::int64_t, std::int64_t rows, const float* logits) {
    all.insert(all.end(), logits, logits + rows * session.model().spec().vocab);
  });
  return all;
}
/// The first as a prompt, the others one by one.
Logits prompt_then_tokens(RuntimeModel& model, KvType kv, const Tokens& tokens, std::size_t prompt) {
  Session session(model, {.kv = kv});
  Logits all = all_logits(session, std::span(tokens).first(prompt));
  for (std::size_t i = prompt; i < tokens.size(); ++i) {
    const auto logits = session.evaluate(std::span(tokens).subspan(i, 1));
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

RuntimeOptions emulated(const cuda::EmulationOptions& emulation = {}, CardOptions card = {}) {
  card.device = cuda::make_emulated_device(emulation);
  return {.threads = 1,
          .activations = ActivationFormat::f32,
          .chunk_tokens = 16,
          .device = RuntimeDevice::cuda,
          .card = card};
}
const RuntimeOptions kExact{.threads = 1, .activations = ActivationFormat::f32};

/// Shares of the largest logit, and of the logits' mean square. The card rounds the inputs of products to f16, by 2^-11
/// of each at most: q's and k's reach the scores (of a size of about 4, as in runtime_test), v's, o's, the gate's, up's
/// and down's the stream, the head's the logits. f32 sums in another order are a thousand times less. Keys and values
/// that differ so may be rounded to neighbouring values; of 8 bits, half a step of 1/127 either way. At worst all add
/// up; they are independent, so that in the mean square their squares do.
struct Allowed {
  Allowed(const ModelSpec& spec, KvType kv) {
    const double layers = static_cast<double>(spec.layers), f16 = 0x1p-11, kept = kv == KvType::i8 ? 0.5 / 127 : f16;
    most = (layers * (2 * 4 + 5) + 1) * f16 + layers * (2 * 4 + 1) * kept;
    mean = std::sqrt((layers * (2 * 16 + 5) + 1) * f16 * f16 + layers * (2 * 16 + 1) * kept * kept);
  }
  double most, mean;
};

void expect_near(const Logits& found, const Logits& wanted, const Allowed& allowed, const std::string& what) {
  ASSERT_EQ(found.size(), wanted.size());
  double largest = 0, difference = 0, squares = 0, error = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double off = std::abs(double(found[i]) - double(wanted[i]));
    largest = std::max(largest, std::abs(double(wanted[i])));
    difference = off <= difference ? difference : off;  // NaN counts
    squares += double(wanted[i]) * double(wanted[i]);
    error += off * off;
  }
  EXPECT_LE(difference / largest, allowed.most) << what;
  EXPECT_LE(std::sqrt(error / squares), allowed.mean) << what;
  if (std::getenv("SCALEBITS_SHOW") != nullptr)
    std::printf("%s: at most %.5f (allowed %.5f), in the mean square %.5f (%.5f)\n", what.c_str(), difference / largest,
                allowed.most, std::sqrt(error / squares), allowed.mean);
}

class CudaFamilies : public testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(Decoding, CudaFamilies,
                         testing::Values(Family::llama, Family::mistral, Family::qwen2, Family::qwen3, Family::opt),
                         [](const auto& family) { return std::string(name_of(family.param)); });

TEST_P(CudaFamilies, LogitsAreTheRuntimes) {
  for (const bool tied : {false, true}) {
    ModelSpec spec = testing_models::tiny_spec(GetParam());
    spec.tied_head = tied;
    const Checkpoint checkpoint = tiny_checkpoint(spec);
    const Tokens tokens = some_tokens(50, spec.vocab);
    const auto cpu = RuntimeModel::from_checkpoint(checkpoint, kExact);
    for (const KvType kv : {KvType::f16, KvType::i8}) {
      const Logits wanted = prompt_then_tokens(*cpu, kv, tokens, 37);
      const auto card = RuntimeModel::from_checkpoint(checkpoint, emulated({}, {.kv = kv}));
      const std::string what = std::string(name_of(GetParam())) + (kv == KvType::i8 ? ", 8-bit cache" : ", f16 cache");
      for (const std::size_t prompt : {std::size_t{37}, tokens.size(), std::size_t{1}})
        expect_near(prompt_then_tokens(*card, kv, tokens, prompt), wanted, Allowed(spec, kv), what);
    }
  }
}

TEST_P(CudaFamilies, TheOrderOfThreadsAndARepetitionChangeNoBit) {
  const Checkpoint checkpoint = tiny_checkpoint(testing_models::tiny_spec(GetParam()));
  const Tokens tokens = some_tokens(40, checkpoint.spec.vocab);
  const auto forwards = RuntimeModel::from_checkpoint(checkpoint, emulated({}, {.memory_bytes = 4 << 20})),
             backwards =
                 RuntimeModel::from_checkpoint(checkpoint, emulated({.backwards = true}, {.memory_bytes = 4 << 20}));
  for (const KvType kv : {KvType::f16, KvType::i8}) {
    const Logits wanted = prompt_then_tokens(*forwards, kv, tokens, 20);
    EXPECT_EQ(prompt_then_tokens(*forwards, kv, tokens, 20), wanted);
    EXPECT_EQ(prompt_then_tokens(*backwards, kv, tokens, 20), wanted);
  }
}

TEST_P(CudaFamilies, SequencesReadTogetherAreNear) {
  const Checkpoint checkpoint = tiny_checkpoint(testing_models::tiny_spec(GetParam()));
  const auto cpu = RuntimeModel::from_checkpoint(checkpoint, kExact),
             card = RuntimeModel::from_checkpoint(checkpoint, emulated());
  std::vector<Session> of_cpu, of_card;
  for (int i = 0; i < 3; ++i) {
    const KvType kv = i == 1 ? KvType::i8 : KvType::f16;  // of both kinds in one step
    of_cpu.emplace_back(*cpu, SessionOptions{.kv = kv, .max_positions = 40 + i});
    of_card.emplace_back(*card, SessionOptions{.kv = kv, .max_positions = 40 + i});
  }
  for (int round = 0; round < 4; ++round) {
    std::vector<Tokens> read;
    for (int i = 0; i < 3; ++i)
      read.push_back(
          some_tokens(round == 0 ? 1 + 9 * i : 1, checkpoint.spec.vocab, static_cast<std::uint64_t>(9 * round + i)));
    std::vector<SessionStep> cpu_steps, card_steps;
    for (std::size_t i = 0; i < 3; ++i)
      cpu_steps.push_back({&of_cpu[i], read[i]}), card_steps.push_back({&of_card[i], read[i]});
    const auto wanted = evaluate(cpu_steps), found = evaluate(card_steps);
    expect_near({found.begin(), found.end()}, {wanted.begin(), wanted.end()}, Allowed(checkpoint.spec, KvType::i8),
                "together");
  }
  // One alone, which runs the recorded step on another cache than the last time.
  for (std::size_t i = 0; i < 9; ++i) {
    const Tokens token = {static_cast<std::int32_t>(i)};
    const auto wanted = of_cpu[i % 3].evaluate(token), found = of_card[i % 3].evaluate(token);
    expect_near({found.begin(), found.end()}, {wanted.begin(), wanted.end()}, Allowed(checkpoint.spec, KvType::i8),
                "alone");
  }
}

class CudaPacked : public testing::Test {
 protected:
  std::shared_ptr<const Artifact> write(RandomOrders orders, bool tied, int head_bits) {
    RandomArtifactOptions options;
    options.layers = 3, options.hidden = 96, options.intermediate = 200, options.heads = 4, options.kv_heads = 2;
    options.vocab = 301, options.max_positions = 128;
    options.widths = WidthMix::parse("0:0.1,1:0.1,2:0.2,3:0.2,4:0.1,5:0.1,6:0.05,7:0.05,8:0.1");
    options.orders = orders, options.tied_head = tied, options.head_bits = head_bits;
    options.group_cols = orders == RandomOrders::free ? 32 : 64;
    write_random_artifact(folder_ / "a", options, [](std::uint64_t) {});
    return std::make_shared<const Artifact>(Artifact::open(folder_ / "a"));
  }
  TemporaryFolder folder_;
};

TEST_F(CudaPacked, LogitsAreTheRuntimes) {
  for (const RandomOrders orders : {RandomOrders::none, RandomOrders::site, RandomOrders::free})
    for (const bool tied : {false, true}) {
      const auto artifact = write(orders, tied, orders == RandomOrders::none ? 16 : 6);
      const Tokens tokens = some_tokens(30, artifact->spec().vocab);
      const auto cpu = RuntimeModel::from_artifact(artifact, kExact),
                 card = RuntimeModel::from_artifact(artifact, emulated()),
                 backwards = RuntimeModel::from_artifact(artifact, emulated({.backwards = true}));
      EXPECT_NE(card->placement().find("all 3 layers, embedding and head"), std::string::npos) << card->placement();
      for (const KvType kv : {KvType::f16, KvType::i8}) {
        const Logits found = prompt_then_tokens(*card, kv, tokens, 21);
        expect_near(found, prompt_then_tokens(*cpu, kv, tokens, 21), Allowed(artifact->spec(), kv), "packed");
        EXPECT_EQ(prompt_then_tokens(*backwards, kv, tokens, 21), found);
      }
    }
}

TEST_F(CudaPacked, LayersThatDoNotFitRunHereAndMemoryIsWhatWasCounted) {
  for (const bool tied : {false, true}) {
    const auto artifact = write(RandomOrders::site, tied, 6);
    const Tokens tokens = some_tokens(30, artifact->spec().vocab);
    const auto cpu = RuntimeModel::from_artifact(artifact, kExact);
    const Logits wanted = prompt_then_tokens(*cpu, KvType::f16, tokens, 21);
    // As much memory as the device shows to be taken, and one byte less at a time.
    std::uint64_t bytes = 0;
    std::vector<std::string> placements;
    for (int step = 0;; ++step) {
      const std::uint64_t all = std::uint64_t{1} << 40;
      RuntimeOptions options = emulated({.bytes = all}, {.memory_bytes = bytes});
      const auto device = options.card.device;
      std::unique_ptr<RuntimeModel> card;
      try {
        card = RuntimeModel::from_artifact(artifact, options);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::unsupported_hardware);
        EXPECT_NE(std::string(error.what()).find("not one layer fits"), std::string::npos) << error.what();
        break;
      }
      const std::uint64_t taken = all - device->free_bytes();
      if (bytes > 0) {
        EXPECT_LE(taken, bytes);
      }
      placements.push_back(card->placement());
      expect_near(prompt_then_tokens(*card, KvType::f16, tokens, 21), wanted, Allowed(artifact->spec(), KvType::f16),
                  card->placement());
      ASSERT_LT(step, 9);
      bytes = taken - 1;
    }
    ASSERT_GE(placements.size(), 3u);
    EXPECT_NE(placements.front().find("all 3 layers, embedding and head"), std::string::npos);
    EXPECT_NE(placements.back().find("layers 2 to 2 and the head; embedding and layers 0 to 1 here"), std::string::npos)
        << placements.back();
  }
}

TEST(CudaDecoder, TakesWhatItCountsToTheByte) {
  cuda::Draw draw(8);
  cuda::RandomModelOptions options;
  options.shape.layers = 3, options.shape.hidden = 100, options.shape.intermediate = 170, options.shape.heads = 3;
  options.shape.kv_heads = 1, options.shape.head_dim = 34, options.shape.vocab = 77, options.shape.norm_eps = 1e-5f;
  options.shape.frequencies = cuda::usual_frequencies(34);
  options.extras = true;
  const cuda::RandomModel model(draw, options);
  const auto memory_with = [&](std::uint64_t bytes) {
    const std::shared_ptr<cuda::Device> device = cuda::make_emulated_device({.bytes = bytes});
    const cuda::Decoder decoder(device, model.shape, model.weights,
                                {.bytes = bytes, .positions = 50, .eight_bits = true, .tokens = 9, .scored = 3});
    EXPECT_EQ(bytes - device->free_bytes(), decoder.memory().total() - decoder.memory().staging);
    return decoder.memory();
  };
  const cuda::DecoderMemory all = memory_with(std::uint64_t{1} << 30);
  EXPECT_TRUE(all.embeds);
  EXPECT_GT(all.staging, 0u);
  EXPECT_GT(all.read, all.head);
  EXPECT_EQ(memory_with(all.total()).first_layer, 0) << "it fits into what it counts, and loading, too";
  const cuda::DecoderMemory fewer = memory_with(all.total() - 1);
  EXPECT_EQ(fewer.first_layer, 1);
  EXPECT_EQ(fewer.cache, all.cache / 3 * 2);
  const cuda::DecoderMemory one = memory_with(fewer.total() - 1);
  EXPECT_EQ(one.first_layer, 2);
  EXPECT_EQ(memory_with(one.total()).first_layer, 2);
  EXPECT_THROW(memory_with(one.total() - 1), cuda::CardError);
}

TEST(CudaDecoder, RefusesShapesThatItsOperationsDoNotTake) {
  cuda::Draw draw(10);
  cuda::RandomModelOptions options;
  options.shape.layers = 1, options.shape.hidden = 64, options.shape.intermediate = 64, options.shape.heads = 2;
  options.shape.kv_heads = 1, options.shape.head_dim = 32, options.shape.vocab = 77, options.shape.norm_eps = 1e-5f;
  options.shape.frequencies = cuda::usual_frequencies(32);
  const cuda::RandomModel model(draw, options);
  const auto refusal = [&](int hidden, int head_dim) -> std::string {
    cuda::DecoderShape shape = model.shape;
    shape.hidden = hidden, shape.head_dim = head_dim;
    try {
      cuda::Decoder(cuda::make_emulated_device(), shape, model.weights,
                    {.bytes = 1 << 30, .positions = 50, .tokens = 9, .scored = 3});
    } catch (const cuda::CardError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(refusal(16388, 32).find("a hidden state of 16388 channels"), std::string::npos);
  EXPECT_NE(refusal(4097, 32).find("a hidden state of 4097 channels"), std::string::npos);
  EXPECT_NE(refusal(64, 258).find("heads of 258 channels"), std::string::npos);
  EXPECT_EQ(refusal(64, 32), "");
}

/// What tools/gpu_check does on a card.
TEST(CudaDecoder, PassesTheCheckOfCards) {
  EXPECT_EQ(cuda::check_decoding(
                cuda::make_emulated_device({.backwards = true, .multiprocessors = 9, .makes_inputs = false}), true),
            std::vector<std::string>());
}

TEST(CudaDecoder, ScoresAnyOfTheTokensLastRead) {
  cuda::Draw draw(9);
  cuda::RandomModelOptions options;
  options.shape.layers = 2, options.shape.hidden = 64, options.shape.intermediate = 100, options.shape.heads = 2;
  options.shape.kv_heads = 1, options.shape.head_dim = 32, options.shape.vocab = 77, options.shape.norm_eps = 1e-5f;
  options.shape.frequencies = cuda::usual_frequencies(32);
  const cuda::RandomModel model(draw, options);
  cuda::Decoder decoder(cuda::make_emulated_device(), model.shape, model.weights,
                        {.bytes = 1 << 30, .positions = 50, .tokens = 9, .scored = 3});
  const cuda::SequenceCache caches[] = {decoder.make_cache(20, false), decoder.make_cache(20, true)};
  const auto logits_of = [&](const std::vector<std::int32_t>& tokens) {
    decoder.score(tokens);
    Logits logits(tokens.size() * 77);
    decoder.logits(logits.data());
    return logits;
  };
  for (int step = 0; step < 4; ++step) {  // as it comes, recorded, replayed
    const std::vector<cuda::DecoderToken> tokens = {{step, step, &caches[0]}, {step + 9, step, &caches[1]}};
    decoder.read(tokens, nullptr);
    const Logits all = logits_of({0, 1}), second = logits_of({1}), swapped = logits_of({1, 0}),
                 again = logits_of({0, 1});
    EXPECT_EQ(again, all);
    EXPECT_EQ(second, Logits(all.begin() + 77, all.end()));
    EXPECT_EQ(Logits(swapped.begin() + 77, swapped.end()), Logits(all.begin(), all.begin() + 77));
    EXPECT_NE(second, Logits(all.begin(), all.begin() + 77));
  }
  EXPECT_THROW(decoder.score(Tokens{0, 1, 0, 1}), std::logic_error);
}

TEST_F(CudaPacked, AnotherSequenceMayNotFit) {
  const auto artifact = write(RandomOrders::none, true, 6);
  RuntimeOptions options = emulated();
  {
    const auto model = RuntimeModel::from_artifact(artifact, options);
    options.card.memory_bytes = (std::uint64_t{1} << 40) - options.card.device->free_bytes() + (64 << 10);
  }
  const auto model = RuntimeModel::from_artifact(artifact, options);
  for (int again = 0; again < 3; ++again) {
    Session session(*model);
    session.evaluate(Tokens{1});
    EXPECT_GT(session.cache_bytes(), 0u);
    EXPECT_THROW(Session second(*model), Error) << "of the same size";
    EXPECT_NO_THROW(Session small(*model, {.max_positions = 16}));
    EXPECT_THROW(Session(*model, {.max_positions = 129}), Error) << "beyond the table of angles";
  }
}

TEST_F(CudaPacked, TheLikeliestTokenIsTheLargestLogit) {
  const auto artifact = write(RandomOrders::site, false, 6);
  for (const RuntimeOptions& options : {kExact, emulated()}) {
    const auto model = RuntimeModel::from_artifact(artifact, options);
    Session one(*model), other(*model);
    Tokens read = some_tokens(20, 301);
    for (int i = 0; i < 6; ++i) {
      const auto logits = one.evaluate(read);
      const auto wanted = static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      EXPECT_EQ(other.likeliest(read), wanted);
      read = {wanted};
    }
  }
}

TEST(CudaDecoding, WhatCannotBeDoneIsAnError) {
  Checkpoint checkpoint = tiny_checkpoint(testing_models::tiny_spec(Family::llama));
  const auto kind_of = [&](const RuntimeOptions& options) {
    try {
      const auto model = RuntimeModel::from_checkpoint(checkpoint, options);
      Session(*model).evaluate(Tokens{1});
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::interrupted;
  };
  RuntimeOptions options = emulated();
  EXPECT_EQ(kind_of(options), ErrorKind::interrupted) << "no error";
  options.chunk_tokens = 2000;
  EXPECT_EQ(kind_of(options), ErrorKind::usage);
  EXPECT_EQ(kind_of(emulated({}, {.positions = -1})), ErrorKind::usage);
  EXPECT_EQ(kind_of(emulated({.bytes = 1 << 20}, {.memory_bytes = 2 << 20})), ErrorKind::unsupported_hardware);
  EXPECT_EQ(kind_of(emulated({.bytes = 1 << 10})), ErrorKind::unsupported_hardware);
  std::vector<float> values = checkpoint.tensor(kFinalNormName).to_f32();
  values[5] = NAN;
  checkpoint.tensors[std::string(kFinalNormName)] = HostTensor::from_f32({checkpoint.spec.hidden}, values);
  EXPECT_EQ(kind_of(emulated()), ErrorKind::bad_input);
  const auto model = RuntimeModel::from_checkpoint(checkpoint, emulated());
  EXPECT_THROW(Session(*model).likeliest(Tokens{1}), Error);
  try {
    cuda::open_card();
  } catch (const cuda::CardError&) {
    EXPECT_EQ(kind_of({.threads = 1, .device = RuntimeDevice::cuda}), ErrorKind::unsupported_hardware);
  }
}

TEST(CudaDecoding, AToyModelWritesTheSameText) {
  const std::filesystem::path path = SCALEBITS_SOURCE_DIR "/../shared/models/stories260K/stories260Ktok512.f32.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "NOT TESTED: " << path << " is not there";
  RuntimeOptions options = emulated();
  options.chunk_tokens = 256;
  const auto cpu = RuntimeModel::open(path, kExact), card = RuntimeModel::open(path, options);
  Tokens text = cpu->require_tokenizer().encode("Once upon a time, there was a", {.add_bos = true});
  const std::size_t prompt = text.size();
  Session of_cpu(*cpu), of_card(*card);
  std::int32_t next = of_cpu.likeliest(text);
  EXPECT_EQ(of_card.likeliest(text), next);
  while (text.size() < prompt + 60) {
    text.push_back(next);
    next = of_cpu.likeliest(std::span(text).last(1));
    // The likeliest is far ahead in this model's text; a tie within roundings would be a reason to look, not to fail.
    EXPECT_EQ(of_card.likeliest(std::span(text).last(1)), next) << cpu->require_tokenizer().decode(text);
  }
  for (const KvType kv : {KvType::f16, KvType::i8})
    expect_near(prompt_then_tokens(*card, kv, text, prompt), prompt_then_tokens(*cpu, kv, text, prompt),
                Allowed(cpu->spec(), kv), "stories260K");
}

}  // namespace
}  // namespace scalebits
