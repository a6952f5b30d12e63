// What a training step does with tensors beside the passes' own arithmetic (graph/arithmetic.h), as a table of
// functions of the same kind: kernels of our own for host memory, and plain tensor operations for tensors on any
// device. Where parameters lie is said once, when they are made; nothing after that asks.
#pragma once

#include "graph/arithmetic.h"
#include "graph/compute_device.h"
#include "train/adamw.h"
#include "train/fake_quantize.h"
#include "train/fp8_product.h"
#include "train/norm_gradient.h"
#include "train/tensor_sums.h"

#include <cstdint>

namespace scalebits {

struct Parameter;

/// Each as the function of its name in the headers above and in step_statistics.h, which is the host's.
struct TrainArithmetic {
  using Tensor = at::Tensor;
  void (*fake_quantize)(const FakeQuantize& how, const Tensor& in, const Tensor& out);
  void (*norm_weight_gradient)(const Tensor& dout, const Tensor& x, double eps, const Tensor& gradient);
  double (*gradient_norm)(const Parameters& parameters);
  void (*adamw_update)(Parameters& parameters, const AdamWOptions& options, const AdamWStep& step);
  double (*squared_update_change)(const Parameter& parameter, const AdamWOptions& adamw, const AdamWStep& update,
                                  const Tensor& gradient, const Tensor& changed);
  double (*squared_norm)(const Tensor& a);
  double (*inner_product)(const Tensor& a, const Tensor& b);
  double (*squared_distance)(const Tensor& a, const Tensor& b);
  void (*add_noise)(const Tensor& tensor, const Noise& noise);
};

const TrainArithmetic& host_train_arithmetic();
const TrainArithmetic& tensor_train_arithmetic();

/// Where parameters, their gradients and AdamW's state lie, and what works on them.
struct TrainPlace : ComputePlace {
  const TrainArithmetic* train = &host_train_arithmetic();
  Fp8Product fp8_product = nullptr;  // null: FP8 products are emulated by fake quantisation, as those of FP4 always are
};

/// The place whose tensors lie on `device` and are worked on by tensor operations; see tensor_place().
TrainPlace tensor_train_place(at::Device device);
/// That of process number `rank`; open_compute_device() was called. fp8_hardware: its FP8 products are real ones, or
/// Error(unsupported_hardware) says why they cannot be.
TrainPlace train_place(ComputeDevice device, int rank, bool fp8_hardware);

}  // namespace scalebits
