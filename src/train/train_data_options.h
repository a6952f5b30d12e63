// How text is cut and shown to a training run.
#pragma once

#include <cstdint>

namespace scalebits {

struct TrainDataOptions {
  std::int64_t window_length = 256, batch_windows = 16;
  std::int64_t validation_windows = 32;  // held out, the same whatever the seed
  std::uint64_t seed = 1;                // of the order of windows, a new one in each epoch
};

}  // namespace scalebits
