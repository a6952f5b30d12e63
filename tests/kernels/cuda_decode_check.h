// cuda_check's second half: what lies between products.
#pragma once

#include "cuda_random.h"

#include <string>

namespace scalebits::cuda {

/// What is wrong; empty: nothing.
std::vector<std::string> check_decoding(Engine& engine);

}  // namespace scalebits::cuda
