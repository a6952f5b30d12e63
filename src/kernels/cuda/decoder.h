// The last layers of a model, or all of them, with the head, on a device: loaded once, then read token by token. It
// takes layers from the end, as many as fit the memory it is given; the caller computes those before and hands over the
// hidden state. Inputs of products are f16 (of the MLP's last product f32, which the product scales), sums f32, the
// residual stream f32. A step of one token, or of one each of several sequences, with the head and the likeliest token,
// is recorded once for each number of tokens and replayed. Results of two runs are the same bits; those of a token read
// alone and in a prompt agree up to roundings.
#pragma once

#include "kernels/cuda/decoder_weights.h"
#include "kernels/cuda/device.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace scalebits::cuda {

struct DecoderLimits {
  std::uint64_t bytes = 0;  // of the device's memory, for all of it
  int positions = 0;        // of a sequence
  bool eight_bits = false;  // how the keys and values of the first sequence are kept
  int tokens = 0;           // read at once, at most
  int scored = 0;           // of them, whose logits are asked for at once, at most
  bool apart = false;       // for measurements: norms and activations of one token, too, are launches of their own
};

/// Where things are, and bytes on the device.
struct DecoderMemory {
  int first_layer = 0;  // layers from this one on are on the device
  bool embeds = false;  // the embedding, too
  std::uint64_t layers = 0, head = 0, embedding = 0;
  std::uint64_t cache = 0;    // of one sequence
  std::uint64_t work = 0;     // scratch, tables of angles, logits
  std::uint64_t staging = 0;  // while weights are loaded

  std::uint64_t read = 0;  // of weights, by a step of one token, without its row of the embedding

  std::uint64_t total() const { return layers + head + embedding + cache + work + staging; }
};

struct DecoderToken {
  std::int32_t id = 0, position = 0;
  const SequenceCache* cache = nullptr;
};

class Decoder {
 public:
  /// Copies the weights; those in host memory are not needed afterwards. Throws CardError when the head and one layer
  /// do not fit `limits.bytes`, or the model's shape is none that the operations take.
  Decoder(std::shared_ptr<Device> device, DecoderShape shape, const DecoderWeights& weights, DecoderLimits limits);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const DecoderMemory& memory() const;
  const Device& device() const;
  /// Throws CardError when what is taken and this are more than `limits.bytes`. There is room for one of the shape that
  /// the limits tell.
  SequenceCache make_cache(int capacity, bool eight_bits);

  /// Reads tokens, at most limits.tokens; each has its room in its cache. `hidden` [tokens, hidden]: what comes out of
  /// the layers before; null when the decoder embeds.
  void read(std::span<const DecoderToken> tokens, const float* hidden);
  /// Logits and likeliest tokens of these of the tokens last read, at most limits.scored.
  void score(std::span<const std::int32_t> tokens);
  /// Of the tokens last scored: [rows, vocab].
  void logits(float* to);
  /// -1: a logit is not finite.
  std::vector<std::int32_t> likeliest();

  /// What the last layer has left of the tokens last read, in the order in which it is made: to find the operation that
  /// is wrong. Of one token norms and activations are there only when they are launches of their own (limits.apart).
  struct Trace {
    const char* name;
    std::vector<float> values;
  };
  std::vector<Trace> traces();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace scalebits::cuda
