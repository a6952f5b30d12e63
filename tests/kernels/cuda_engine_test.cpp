// The contract of the engine and of the card's device about memory, without a card: linked to a runtime that works in
// this machine's memory (fake_cuda.cpp). What they compute there is cuda_check's, run on the same runtime.
#include "cuda_random_model.h"

#include "kernels/cuda/card_device.h"

#include <gtest/gtest.h>

namespace scalebits::cuda {
namespace {

TEST(CudaEngineOnAFakeCard, TakesWhatTheDecoderCounts) {
  const std::shared_ptr<Device> card = open_card();
  Draw draw(12);
  RandomModelOptions options;
  options.shape.layers = 2, options.shape.hidden = 128, options.shape.intermediate = 300, options.shape.heads = 4;
  options.shape.kv_heads = 2, options.shape.head_dim = 32, options.shape.vocab = 99, options.shape.norm_eps = 1e-5f;
  options.shape.frequencies = usual_frequencies(32);
  const RandomModel model(draw, options);
  const std::uint64_t before = card->free_bytes();
  const Decoder decoder(card, model.shape, model.weights,
                        {.bytes = before, .positions = 40, .tokens = 50, .scored = 4});
  const DecoderMemory& memory = decoder.memory();
  // The engine's own sums were there before.
  const std::uint64_t own = card->reserve_bytes(1, 64) - (64 * 8 * 2 + 2 * 8 * 4 + 8 * 4);
  EXPECT_EQ(before - card->free_bytes(), memory.total() - memory.staging - own);
}

}  // namespace
}  // namespace scalebits::cuda
