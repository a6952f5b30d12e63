// Contract: writing 10,000 tokens takes no memory but that of what a session of so many tokens holds: it was filled
// once before, and 32 bytes lost per token would be seen.
#include "../unit/resident_bytes.h"
#include "../unit/tiny_models.h"
#include "tokenizer/tokenizer.h"
#include "writing/text_writer.h"

#include <gtest/gtest.h>

namespace scalebits {
namespace {

TEST(LongText, TakesNoMemoryBesideItsSession) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer keeps freed memory";
#endif
  const Tokenizer tokenizer = Tokenizer::from_tokenizer_json(SCALEBITS_SOURCE_DIR "/tests/data/tokenizer/qwen2.json");
  ModelSpec spec = testing_models::tiny_spec(Family::llama);
  spec.vocab = tokenizer.vocab_size();
  const auto weights = testing_models::random_model(spec, 5);
  Checkpoint checkpoint;
  checkpoint.spec = spec;
  checkpoint.source = "tiny";
  for (const TensorShape& tensor : required_tensors(spec))
    checkpoint.tensors[tensor.name] = HostTensor::from_f32(tensor.shape, weights.weights.at(tensor.name));

  constexpr std::int64_t kTokens = 10'000;
  const auto model = RuntimeModel::from_checkpoint(checkpoint, {.threads = 1});
  Session session(*model, {.max_positions = kTokens});
  session.evaluate(std::vector<std::int32_t>(kTokens, 2));
  TextWriter writer(session, tokenizer,
                    {.sampling = {.temperature = 1, .top_p = 0.9, .repetition_penalty = 1.1}, .stops = {"not in it"}});
  const std::vector<std::int32_t> prompt = {1};
  writer.write(prompt, 200, [](std::string_view) {});
  const std::int64_t before = resident_bytes();
  const Written written = writer.write(prompt, kTokens, [](std::string_view) {});
  ASSERT_EQ(written.tokens.size(), static_cast<std::size_t>(kTokens));
  // The list of tokens grows by doubling: at most twice as long as needed, and the old copies as long again.
  const std::int64_t list = 4 * kTokens * 4;
  EXPECT_LE(resident_bytes() - before, list + 32 * kTokens);
}

}  // namespace
}  // namespace scalebits
