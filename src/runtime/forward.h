// One pass of tokens through all layers. The tokens may belong to several sequences; each finds its past in the cache
// of its own. A token's results are the same bits whatever else is in the pass.
#pragma once

#include "core/aligned_buffer.h"
#include "kernels/attention.h"
#include "runtime/kv_cache.h"
#include "runtime/model.h"
#include "runtime/rotary_table.h"

#include <cstdint>
#include <span>
#include <vector>

namespace scalebits {

/// A token to be read at `position` of its sequence; all before it have been read, or come before it in the pass.
struct PassToken {
  KvCache* cache = nullptr;
  std::int64_t position = 0;
  std::int32_t id = 0;
};

class ForwardPass {
 public:
  explicit ForwardPass(RuntimeModel& model);

  /// Writes keys and values into the caches, which have room; gives [tokens, hidden], after the final norm, valid until
  /// the next call.
  const float* hidden(std::span<const PassToken> tokens);
  /// hidden [rows, hidden] → logits [rows, vocab], valid until the next call. Throws Error(bad_input) unless all are
  /// finite.
  const float* logits(const float* hidden, std::int64_t rows);
  /// Rows that logits() should be asked for at once: those of 16 MiB.
  std::int64_t logit_rows() const;

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
  void layer(const RuntimeLayer& layer, std::int64_t index, std::span<const PassToken> tokens);
  void rotate_and_store(const RuntimeLayer& layer, std::int64_t index, std::span<const PassToken> tokens);
  void make_room(std::int64_t rows);
  template <typename Body>
  void for_rows(std::int64_t rows, std::int64_t width, const Body& body);

  RuntimeModel& model_;
  const ModelSpec& spec_;
  Profile* profile_;
  RotaryTable rotary_;
  AlignedBuffer<float> x_, normed_, delta_, q_, k_, v_, attended_, gate_, up_, logits_;
  std::vector<LinearOutput> outputs_;
  std::vector<AttentionQuery> queries_;
};

}  // namespace scalebits
