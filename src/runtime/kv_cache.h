// Keys and values of one sequence in all layers: those of the first in this machine's memory, those of others on a
// card. Here, room for all positions is asked for at once, but takes memory only as positions are written
// (kernels/attention.h); nothing is ever moved.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/device_memory.h"
#include "model/model_spec.h"

#include <cstdint>
#include <vector>

namespace scalebits {

class KvCache {
 public:
  /// All layers are here.
  KvCache(const ModelSpec& spec, KvType type, std::int64_t capacity);
  /// The first `layers_here` are; the others have their room in `card`.
  KvCache(const ModelSpec& spec, KvType type, std::int64_t capacity, std::int64_t layers_here,
          cuda::SequenceCache card);

  /// Of those that are here.
  KvLayer& layer(std::int64_t index) { return layers_[static_cast<std::size_t>(index)]; }
  /// Of one position in all layers.
  std::uint64_t bytes_per_position() const;
  const cuda::SequenceCache& card() const { return card_; }

 private:
  std::vector<KvLayer> layers_;
  cuda::SequenceCache card_;
};

}  // namespace scalebits
