// One pass of tokens through all layers. The tokens may belong to several sequences; each finds its past in the cache
// of its own. A token's results are the same bits whatever else is in the pass.
#pragma once

#include "core/aligned_buffer.h"
#include "core/largest.h"
#include "kernels/attention.h"
#include "runtime/backend.h"
#include "runtime/model.h"
#include "runtime/rotary_table.h"

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace scalebits {

/// Throws Error(bad_input) naming the model and what is not finite.
[[noreturn]] void fail_not_finite(const RuntimeModel& model, std::string_view what = "logits");

class ForwardPass : public Backend {
 public:
  explicit ForwardPass(RuntimeModel& model);

  KvCache make_cache(KvType type, std::int64_t capacity) override;
  std::int64_t most_positions() const override;
  void read(std::span<const PassToken> tokens) override;
  const float* logits(std::span<const std::int32_t> rows) override;
  std::vector<std::int32_t> likeliest(std::span<const std::int32_t> rows) override;
  std::int64_t logit_rows() const override;

  /// What comes out of the embedding and the first `layers` layers alone, [tokens, hidden], valid until the next call.
  const float* residual(std::span<const PassToken> tokens, std::int64_t layers);

 private:
  struct Product {
    const Linear* linear;
    const std::vector<float>* bias;
    float* y;
  };
  /// All from the same x [rows, width]; y [rows, rows of the matrix], biases added.
  void multiply(std::span<const Product> products, const float* x, std::int64_t rows, std::int64_t width);
  /// x_ → x_ (plus delta_, where that is asked for) and normed_.
  void norm(const RuntimeNorm& norm, bool adds_delta, std::int64_t rows);
  void embed(std::span<const PassToken> tokens);
  /// The embedding and the first `layers` layers → x_ and, unless there are none, delta_.
  void run(std::span<const PassToken> tokens, std::int64_t layers);
  void layer(const RuntimeLayer& layer, std::int64_t index, std::span<const PassToken> tokens);
  void rotate_and_store(const RuntimeLayer& layer, std::int64_t index, std::span<const PassToken> tokens);
  void make_room(std::int64_t rows);
  template <typename Body>
  void for_rows(std::int64_t rows, std::int64_t width, const Body& body);

  RuntimeModel& model_;
  const ModelSpec& spec_;
  Profile* profile_;
  RotaryTable rotary_;
  AlignedBuffer<float> x_, normed_, delta_, q_, k_, v_, attended_, gate_, up_, scored_, logits_;
  std::vector<Largest> largest_;  // of each row of logits_
  std::vector<LinearOutput> outputs_;
  std::vector<AttentionQuery> queries_;
};

}  // namespace scalebits
