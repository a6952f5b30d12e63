// A card as a decoder sees it. Linked either to card_device.cpp or, without a CUDA toolkit, to engine_stub.cpp.
#pragma once

#include "kernels/cuda/device.h"

#include <memory>

namespace scalebits::cuda {

/// The card of that number. Throws CardError saying why there is none.
std::unique_ptr<Device> open_card(int card = 0);

}  // namespace scalebits::cuda
