// Reads tokens on a card: its decoder (kernels/cuda/decoder.h) has the last layers and the head, this machine's forward
// pass the layers before, and the embedding when the card has no room for it.
#pragma once

#include "kernels/cuda/decoder.h"
#include "runtime/forward.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace scalebits {

class CardBackend : public Backend {
 public:
  /// Loads the weights onto the card of model.options().card. Throws Error(unsupported_hardware) when there is no card,
  /// when it lacks the memory for a single layer, and for a model that it cannot run.
  explicit CardBackend(RuntimeModel& model);

  KvCache make_cache(KvType type, std::int64_t capacity) override;
  std::int64_t most_positions() const override { return positions_; }
  void read(std::span<const PassToken> tokens) override;
  const float* logits(std::span<const std::int32_t> rows) override;
  std::vector<std::int32_t> likeliest(std::span<const std::int32_t> rows) override;
  std::int64_t logit_rows() const override;
  std::string placement() const override;

 private:
  RuntimeModel& model_;
  ForwardPass front_;
  std::int64_t positions_;
  std::unique_ptr<cuda::Decoder> decoder_;
  std::vector<cuda::DecoderToken> tokens_;
  AlignedBuffer<float> logits_;
};

}  // namespace scalebits
