// cuda_check's second half: decoding.
#pragma once

#include "kernels/cuda/device.h"

#include <memory>
#include <string>
#include <vector>

namespace scalebits::cuda {

/// What is wrong on the card; empty: nothing. quick: the smallest model alone, for compute-sanitizer.
std::vector<std::string> check_decoding(const std::shared_ptr<Device>& card, bool quick);

}  // namespace scalebits::cuda
