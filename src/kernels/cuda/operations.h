// The operations between products: each a struct of arguments with the work of a block (block.h).
#pragma once

#include "kernels/cuda/activate.h"
#include "kernels/cuda/argmax.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/dense_product.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/rotate_and_store.h"

#include <variant>

namespace scalebits::cuda {

using Operation = std::variant<Embed, Norm, RotateAndStore, Attend, Activate, DenseProduct, Argmax>;

}  // namespace scalebits::cuda
