// Keys and values of one sequence in all layers. It grows by doubling, layer by layer, so that growth never holds two
// copies of the whole.
#pragma once

#include "kernels/attention.h"
#include "model/model_spec.h"

#include <cstdint>
#include <vector>

namespace scalebits {

class KvCache {
 public:
  KvCache(const ModelSpec& spec, KvType type) : spec_(&spec), type_(type) {}

  std::int64_t capacity() const { return capacity_; }
  std::uint64_t bytes() const;
  /// Makes room for `positions` in every layer, the first `written` being kept; at most `limit` positions.
  void reserve(std::int64_t positions, std::int64_t written, std::int64_t limit);

  KvLayer& layer(std::int64_t index) { return layers_[static_cast<std::size_t>(index)]; }

 private:
  const ModelSpec* spec_;
  KvType type_;
  std::int64_t capacity_ = 0;
  std::vector<KvLayer> layers_;
};

}  // namespace scalebits
