// Keys and values of one sequence in all layers. Room for all positions is asked for at once, but takes memory only as
// positions are written (kernels/attention.h): nothing is ever moved.
#pragma once

#include "kernels/attention.h"
#include "model/model_spec.h"

#include <cstdint>
#include <vector>

namespace scalebits {

class KvCache {
 public:
  KvCache(const ModelSpec& spec, KvType type, std::int64_t capacity);

  KvLayer& layer(std::int64_t index) { return layers_[static_cast<std::size_t>(index)]; }
  /// Of one position in all layers.
  std::uint64_t bytes_per_position() const;

 private:
  std::vector<KvLayer> layers_;
};

}  // namespace scalebits
