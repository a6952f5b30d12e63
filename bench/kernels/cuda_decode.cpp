// Decoding a random model of 8 billion weights on a card: cuda_decode OUT.json [--quick]. Llama 3's 8B shape at
// about 2.5 bits a weight; the time of a token at several positions, by the wall clock from asking for a token to
// knowing the next, beside what reading the weights takes at the speed of a copy within the card's memory; with kernels
// that begin before the one before has ended, and without. Needs nothing but the CUDA toolkit.
#include "kernels/cuda/card_device.h"
#include "kernels/cuda/engine.h"
#include "kernels/cuda/start.h"
#include "tests/kernels/cuda_random_model.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>

namespace scalebits::cuda {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// Read and written, GB/s.
double copy_gb_per_s() {
  const std::uint64_t bytes = std::uint64_t{1} << 30;
  const CardBuffer from(bytes), to(bytes);
  std::vector<double> seconds;
  for (int repeat = 0; repeat < 8; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, nullptr);
    cudaDeviceSynchronize();
    seconds.push_back(seconds_since(start));
  }
  return 2e-9 * static_cast<double>(bytes) / median(seconds);
}

int run(const char* out, bool quick) {
  const Card card = cards().at(0);
  const double copy = copy_gb_per_s();
  RandomModelOptions options;
  DecoderShape& shape = options.shape;
  shape.layers = quick ? 4 : 32, shape.hidden = 4096, shape.intermediate = 14336, shape.heads = 32, shape.kv_heads = 8;
  shape.head_dim = 128, shape.vocab = 128256, shape.norm_eps = 1e-5f, shape.frequencies = usual_frequencies(128);
  options.widths = {{1, 20}, {2, 40}, {3, 30}, {4, 10}};
  options.one_layer = true;
  Draw draw(5);
  const RandomModel model(draw, options);
  const std::shared_ptr<Device> device = open_card();
  constexpr int kPositions = 8192 + 256, kPrompt = 256;
  std::string rows;
  std::vector<double> prompts;
  double load_seconds = 0;
  DecoderMemory memory;
  struct Way {
    bool overlap, apart;
  };
  for (const auto [overlap, apart] : {Way{true, false}, Way{false, false}, Way{true, true}}) {
    const bool usual = overlap && !apart;
    launches_overlap = overlap;
    const auto start = std::chrono::steady_clock::now();
    Decoder decoder(
        device, model.shape, model.weights,
        {.bytes = device->free_bytes(), .positions = kPositions, .tokens = kPrompt, .scored = 16, .apart = apart});
    const SequenceCache cache = decoder.make_cache(kPositions, false);
    load_seconds = seconds_since(start);
    memory = decoder.memory();
    std::int32_t id = 1;
    for (const int context : usual ? std::vector{0, 1024, 4096, 8192} : std::vector{0, 4096}) {
      std::vector<double> seconds;
      for (int i = 0; i < (quick ? 16 : 128); ++i) {
        const auto begin = std::chrono::steady_clock::now();
        const DecoderToken token{id, context + i, &cache};
        const std::int32_t first = 0;
        decoder.read({&token, 1}, nullptr);
        decoder.score({&first, 1});
        id = std::max(0, decoder.likeliest()[0]);
        if (i >= 4) seconds.push_back(seconds_since(begin));  // the first are not replayed, and clocks rise
      }
      const double token = median(seconds), gb = static_cast<double>(memory.read) * 1e-9,
                   cached = static_cast<double>(context) * 2 * 2 * 8 * 128 * model.shape.layers * 1e-9;
      char row[400];
      std::snprintf(row, sizeof row,
                    "%s\n    {\"context\": %d, \"launches_overlap\": %s, \"apart\": %s, \"token_us\": %.1f, "
                    "\"tokens_per_s\": %.1f, "
                    "\"weights_gb_per_s\": %.1f, \"share_of_weight_roofline\": %.4f, \"share_with_cache\": %.4f}",
                    rows.empty() ? "" : ",", context, overlap ? "true" : "false", apart ? "true" : "false", 1e6 * token,
                    1 / token, gb / token, gb / copy / token, (gb + cached) / copy / token);
      rows += row;
    }
    for (int repeat = 0; usual && repeat < 5; ++repeat) {
      std::vector<DecoderToken> tokens;
      for (int i = 0; i < kPrompt; ++i) tokens.push_back({i, i, &cache});
      const std::int32_t end = kPrompt - 1;
      const auto begin = std::chrono::steady_clock::now();
      decoder.read(tokens, nullptr);
      decoder.score({&end, 1});
      decoder.likeliest();
      prompts.push_back(seconds_since(begin));
    }
  }
  std::FILE* file = std::fopen(out, "w");
  if (file == nullptr) throw CardError(std::string("cannot write ") + out);
  std::fprintf(file,
               "{\n  \"card\": \"%s\", \"copy_gb_per_s\": %.0f, \"layers\": %d, \"read_bytes_per_token\": %llu,\n"
               "  \"bytes_on_card\": %llu, \"load_s\": %.1f, \"prompt_tokens\": %d, \"prompt_ms\": %.2f,\n"
               "  \"decoding\": [%s\n  ]\n}\n",
               card.name.c_str(), copy, model.shape.layers, static_cast<unsigned long long>(memory.read),
               static_cast<unsigned long long>(memory.total()), load_seconds, kPrompt, 1e3 * median(prompts),
               rows.c_str());
  std::fclose(file);
  return 0;
}

}  // namespace
}  // namespace scalebits::cuda

int main(int count, char** arguments) {
  if (count < 2) {
    std::fprintf(stderr, "usage: cuda_decode OUT.json [--quick]\n");
    return 2;
  }
  try {
    return scalebits::cuda::run(arguments[1], count > 2 && std::strcmp(arguments[2], "--quick") == 0);
  } catch (const scalebits::cuda::CardError& error) {
    std::fprintf(stderr, "cuda_decode: %s\n", error.what());
    return 5;
  }
}
