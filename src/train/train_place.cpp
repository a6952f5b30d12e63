#include "core/error.h"
#include "train/train_arithmetic.h"

namespace scalebits {

TrainPlace train_place(ComputeDevice device, int rank, bool fp8_hardware) {
  TrainPlace place = device == ComputeDevice::cpu ? TrainPlace{} : tensor_train_place(numbered_device(device, rank));
  if (!fp8_hardware) return place;
  if (device == ComputeDevice::cpu)
    fail(ErrorKind::unsupported_hardware,
         "fp8_products=hardware wants a device that multiplies FP8 numbers, such as --device cuda; found --device cpu");
  place.fp8_product = fp8_product_on(place.device);
  return place;
}

}  // namespace scalebits
