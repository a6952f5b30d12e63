// The contract of decoding on a card, on the card: random models, packed and dense, of all shapes of attention, give
// the logits that the emulated device gives, up to the order of f32 sums; what that device gives is held against the
// CPU's runtime by the ordinary tests (cuda_decoding_test). Prompts, single tokens and several sequences; caches of f16
// and 8 bits; and two runs, the second of recorded steps alone, are the same bits. Part of cuda_check.
#include "cuda_decoder_check.h"

#include "cuda_random_model.h"
#include "kernels/cuda/emulated_device.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

namespace scalebits::cuda {
namespace {

constexpr int kPositions = 700;
constexpr int kAtOnce = 90;  // tokens: more than one tile of a prompt's attention

struct Run {
  Run(std::shared_ptr<Device> device, const RandomModel& model, bool apart = false)
      : decoder(device, model.shape, model.weights,
                {.bytes = device->free_bytes(),
                 .positions = kPositions,
                 .tokens = kAtOnce,
                 .scored = kAtOnce,
                 .apart = apart}),
        vocab(model.shape.vocab) {}

  /// Logits of all tokens, first a prompt in passes of up to kAtOnce, then one by one.
  std::vector<float> sequence(bool eight_bits, int prompt, int singles) {
    const SequenceCache cache = decoder.make_cache(kPositions, eight_bits);
    std::vector<float> all;
    for (int done = 0; done < prompt + singles;) {
      const int count = done < prompt ? std::min(kAtOnce, prompt - done) : 1;
      std::vector<DecoderToken> tokens;
      for (int i = 0; i < count; ++i) tokens.push_back({id_of(done + i), done + i, &cache});
      read(tokens, all);
      done += count;
    }
    return all;
  }
  /// Of three sequences at different positions, a token of each at once.
  std::vector<float> together(int steps) {
    std::vector<SequenceCache> caches;
    for (int i = 0; i < 3; ++i) caches.push_back(decoder.make_cache(40 + i, i == 1));
    std::vector<float> all;
    for (int step = 0; step < steps; ++step) {
      std::vector<DecoderToken> tokens;
      for (int i = 0; i < 3; ++i) tokens.push_back({id_of(7 * step + i), step, &caches[static_cast<std::size_t>(i)]});
      read(tokens, all);
    }
    return all;
  }

  Decoder decoder;
  int vocab;
  std::vector<std::int32_t> likeliest;

 private:
  std::int32_t id_of(int i) const { return static_cast<std::int32_t>((i * 7919 + 13) % vocab); }
  void read(const std::vector<DecoderToken>& tokens, std::vector<float>& all) {
    decoder.read(tokens, nullptr);
    std::vector<std::int32_t> rows(tokens.size());
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int32_t>(i);
    decoder.score(rows);
    const std::size_t before = all.size(), size = static_cast<std::size_t>(vocab);
    all.resize(before + rows.size() * size);
    decoder.logits(all.data() + before);
    const auto ids = decoder.likeliest();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto row = all.begin() + static_cast<std::ptrdiff_t>(before + i * size);
      const auto wanted = static_cast<std::int32_t>(std::max_element(row, row + vocab) - row);
      if (ids[i] != wanted) throw std::runtime_error("the likeliest token is not the largest logit");
    }
  }
};

/// f32 sums in another order may round an activation to the neighbouring f16 (2^-11 of it) or a key to the neighbouring
/// 8-bit value (1/127): `share` of the largest logit, as in cuda_decoding_test.
void compare(const std::vector<float>& found, const std::vector<float>& wanted, double share, const std::string& what,
             std::vector<std::string>& failures) {
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    const double difference = std::abs(double(found[i]) - double(wanted[i]));
    worst = difference <= worst ? worst : difference;  // NaN counts
  }
  std::printf("  %-60s largest difference %.6f of the largest\n", what.c_str(), worst / largest);
  if (found.size() != wanted.size() || !(worst <= share * largest))
    failures.push_back(what + ": differs by " + std::to_string(worst / largest) + " of the largest, allowed are " +
                       std::to_string(share));
}

/// One layer alone, operation by operation: the first that is named is the one to look at.
void compare_operations(const std::shared_ptr<Device>& card, const std::shared_ptr<Device>& emulated, Draw& draw,
                        std::vector<std::string>& failures) {
  for (const int dim : {32, 64, 128}) {  // of heads: from 64 on, prompts have a kernel of their own
    RandomModelOptions options;
    options.shape = {.layers = 1, .hidden = 192, .intermediate = 400, .heads = 4, .kv_heads = 2, .head_dim = dim};
    options.shape.vocab = 77, options.shape.norm_eps = 1e-5f, options.shape.frequencies = usual_frequencies(dim);
    options.shape.window = dim == 64 ? 50 : 0;
    options.extras = true;
    const RandomModel model(draw, options);
    Run on_card(card, model, true), on_host(emulated, model, true);
    for (const int prompt : dim == 32 ? std::vector{1, 5, 40} : std::vector{40, kAtOnce, kAtOnce + 30}) {
      const bool eight_bits = dim == 128;
      on_card.sequence(eight_bits, prompt, 0), on_host.sequence(eight_bits, prompt, 0);
      const auto found = on_card.decoder.traces(), wanted = on_host.decoder.traces();
      for (std::size_t i = 0; i < wanted.size(); ++i)
        compare(found[i].values, wanted[i].values, 13 * 0x1p-11,
                "heads of " + std::to_string(dim) + ", " + std::to_string(prompt) + " tokens, " + wanted[i].name,
                failures);
    }
  }
}

}  // namespace

std::vector<std::string> check_decoding(const std::shared_ptr<Device>& card, bool quick) {
  struct Case {
    const char* name;
    RandomModelOptions options;
  };
  const auto shape = [](int layers, int hidden, int intermediate, int heads, int kv_heads, int dim, int window = 0) {
    return DecoderShape{.layers = layers,
                        .hidden = hidden,
                        .intermediate = intermediate,
                        .heads = heads,
                        .kv_heads = kv_heads,
                        .head_dim = dim,
                        .vocab = 501,
                        .window = window,
                        .norm_eps = 1e-5f,
                        .frequencies = usual_frequencies(dim)};
  };
  std::vector<Case> cases = {{"3 layers of 96", {.shape = shape(3, 96, 200, 4, 2, 24)}}};
  if (!quick) {
    cases.push_back({"heads of 256, dense head", {.shape = shape(2, 128, 300, 3, 1, 256), .head_bits = 16}});
    cases.push_back({"12 heads of 128 on one", {.shape = shape(2, 192, 256, 12, 1, 128), .orders = false}});
    cases.push_back({"a window of 50, biases", {.shape = shape(2, 160, 333, 5, 5, 64, 50), .extras = true}});
    RandomModelOptions relu{.shape = shape(2, 64, 170, 2, 2, 32), .extras = true};
    relu.shape.gated = false;
    cases.push_back({"without gate", relu});
  }
  std::vector<std::string> failures;
  const std::shared_ptr<Device> emulated = make_emulated_device();
  Draw draw(77);
  compare_operations(card, emulated, draw, failures);
  for (const Case& c : cases) {
    const RandomModel model(draw, c.options);
    Run on_card(card, model), on_host(emulated, model);
    const int prompt = quick ? 20 : 150, singles = 8;
    const double layers = model.shape.layers, f16 = (layers * 13 + 1) * 0x1p-11;
    for (const bool eight_bits : {false, true}) {
      const std::string what = std::string(c.name) + (eight_bits ? ", 8-bit cache" : ", f16 cache");
      const auto wanted = on_host.sequence(eight_bits, prompt, singles),
                 found = on_card.sequence(eight_bits, prompt, singles);
      compare(found, wanted, f16 + (eight_bits ? layers * 9 * 0.5 / 127 : layers * 9 * 0x1p-11), what, failures);
      if (on_card.sequence(eight_bits, prompt, singles) != found) failures.push_back(what + ": two runs differ");
    }
    compare(on_card.together(6), on_host.together(6), f16 + layers * 9 * 0.5 / 127, std::string(c.name) + ", together",
            failures);
    // Far positions are shared by several blocks; prompts of so many tokens would take the emulation long.
    if (!quick && c.options.shape.hidden == 96)
      compare(on_card.sequence(false, 600, 4), on_host.sequence(false, 600, 4), f16 + layers * 9 * 0x1p-11,
              "600 positions", failures);
  }
  return failures;
}

}  // namespace scalebits::cuda
