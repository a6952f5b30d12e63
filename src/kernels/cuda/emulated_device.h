// A device in this machine's memory, for tests: operations run block after block and thread after thread, forwards or
// backwards, products straight from the repacked stream, weight by weight, of inputs rounded as the card rounds them.
// Slow; its results are those of the card up to the order of sums in products.
#pragma once

#include "kernels/cuda/device.h"

#include <memory>

namespace scalebits::cuda {

struct EmulationOptions {
  bool backwards = false;  // blocks and threads in falling order: results may not depend on it
  int multiprocessors = 4;
  bool makes_inputs = true;                      // products of one token, by themselves
  std::uint64_t bytes = std::uint64_t{1} << 40;  // of its memory
};
std::unique_ptr<Device> make_emulated_device(const EmulationOptions& options = {});

}  // namespace scalebits::cuda
