// What reads tokens for the sessions of a model: the CPU's forward pass, or a card with the CPU before it.
#pragma once

#include "runtime/kv_cache.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace scalebits {

/// A token to be read at `position` of its sequence; all before it have been read, or come before it in the pass.
struct PassToken {
  KvCache* cache = nullptr;
  std::int64_t position = 0;
  std::int32_t id = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// For one sequence of up to `capacity` positions.
  virtual KvCache make_cache(KvType type, std::int64_t capacity) = 0;
  /// Positions that a sequence may have at most, whatever the model was made for.
  virtual std::int64_t most_positions() const = 0;

  /// Reads one pass, at most a chunk of tokens; writes keys and values into their caches.
  virtual void read(std::span<const PassToken> tokens) = 0;
  /// [rows, vocab], of these of the tokens last read, at most logit_rows() of them; valid until the next call. Throws
  /// Error(bad_input) unless all are finite.
  virtual const float* logits(std::span<const std::int32_t> rows) = 0;
  /// The token with the largest logit for each of the rows, the lowest number among equals. Errors as logits().
  virtual std::vector<std::int32_t> likeliest(std::span<const std::int32_t> rows) = 0;
  /// Rows that are asked for at once: those of 16 MiB.
  virtual std::int64_t logit_rows() const = 0;
  /// Where the layers are and what they take; empty when there is nothing to say.
  virtual std::string placement() const { return {}; }
};

}  // namespace scalebits
