#include "graph/arithmetic.h"

namespace scalebits {

const Arithmetic& host_arithmetic() {
  static constexpr Arithmetic kTable{.add_norm = add_norm,
                                     .norm_backward = norm_backward,
                                     .head_norm = head_norm,
                                     .head_norm_backward = head_norm_backward,
                                     .add_bias = add_bias,
                                     .swiglu = swiglu,
                                     .swiglu_backward = swiglu_backward,
                                     .relu = relu,
                                     .relu_backward = relu_backward,
                                     .add = add,
                                     .convert = convert,
                                     .rotate = rotate,
                                     .product_forward = product_forward,
                                     .product_input_gradient = product_input_gradient,
                                     .product_weight_gradient = product_weight_gradient,
                                     .attend = attend,
                                     .attend_backward = attend_backward,
                                     .token_losses = token_losses,
                                     .look_up = look_up,
                                     .add_embedding_gradient = add_embedding_gradient};
  return kTable;
}

}  // namespace scalebits
