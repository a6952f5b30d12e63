#include "train/step_statistics.h"
#include "train/train_arithmetic.h"

namespace scalebits {

const TrainArithmetic& host_train_arithmetic() {
  static constexpr TrainArithmetic kTable{.fake_quantize = fake_quantize,
                                          .norm_weight_gradient = norm_weight_gradient,
                                          .gradient_norm = gradient_norm,
                                          .adamw_update = adamw_update,
                                          .squared_update_change = squared_update_change,
                                          .squared_norm = squared_norm,
                                          .inner_product = inner_product,
                                          .squared_distance = squared_distance,
                                          .add_noise = add_noise};
  return kTable;
}

}  // namespace scalebits
