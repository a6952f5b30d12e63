// Norms, inner products and noise over whole activations, for the measurements of SNIP. Tensors are contiguous, f32 or
// bf16, the two of a call need not be alike. Sums are made in pieces of fixed size: threads do not change them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace scalebits {

double squared_norm(const at::Tensor& a);
double inner_product(const at::Tensor& a, const at::Tensor& b);
/// |a - b|².
double squared_distance(const at::Tensor& a, const at::Tensor& b);

/// Nearly Gaussian numbers of mean 0 and deviation `deviation`: the sum of four uniform bytes, centred and scaled; a
/// pure function of the key and the element's place.
struct Noise {
  double deviation = 0;
  std::uint64_t key = 0;
};
/// Deviation of the sum of four uniform bytes: sqrt(4 (256² - 1) / 12).
inline constexpr float kByteSumDeviation = 147.80054f;
/// tensor += noise, rounded to the tensor's type.
void add_noise(const at::Tensor& tensor, const Noise& noise);

}  // namespace scalebits
