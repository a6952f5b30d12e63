#include "train/tensor_train_arithmetic.h"

#include "graph/tensor_arithmetic.h"
#include "train/parameters.h"

#include <ATen/ATen.h>

#include <cmath>

namespace scalebits {
namespace tensors {
namespace {

/// body(part) over all elements of tensors that are equally long; part(tensor) are its elements of the moment.
template <typename Body>
void for_parts(const at::Tensor& like, Body&& body) {
  for_row_pieces(like.numel(), 1, kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    body([=](const at::Tensor& tensor) { return tensor.view({-1}).narrow(0, first, count); }, first);
  });
}

/// Σ of(part): f32 terms, summed in double on the device and fetched once.
template <typename Of>
at::Tensor sum_of(const at::Tensor& like, Of&& of) {
  at::Tensor sum = at::zeros({}, like.options().dtype(at::kDouble));
  for_parts(like, [&](const auto& part, std::int64_t) { sum.add_(of(part).sum(at::kDouble)); });
  return sum;
}

at::Tensor f32(const at::Tensor& tensor) { return tensor.to(at::kFloat); }

/// AdamW's means after a step, and the direction in which it goes.
struct Means {
  at::Tensor mean, square;
};
at::Tensor updated(const at::Tensor& mean, const at::Tensor& gradient, double beta) {
  const auto kept = static_cast<float>(beta);
  return mean.mul(kept).add_(gradient, 1 - kept);
}
at::Tensor direction(const Means& means, const AdamWOptions& options, const AdamWStep& step) {
  const at::Tensor size = means.square.mul(step.square_correction(options)).sqrt_().add_(options.epsilon);
  return means.mean.mul(step.mean_correction(options)).div_(size);
}
Means means_after(const at::Tensor& mean, const at::Tensor& square, const at::Tensor& gradient,
                  const AdamWOptions& options, const AdamWStep& step) {
  const at::Tensor g = gradient.mul(step.gradient_scale);
  return {updated(mean, g, options.beta1), updated(square, g.mul(g), options.beta2)};
}

}  // namespace

void norm_weight_gradient(const at::Tensor& dout, const at::Tensor& x, double eps, const at::Tensor& gradient) {
  at::Tensor sum = at::zeros(gradient.sizes(), gradient.options().dtype(at::kDouble));
  for_row_pieces(x.size(0), x.size(1), kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    const at::Tensor rows = x.narrow(0, first, count);
    const at::Tensor inverse = rows.mul(rows).mean(-1, true).add_(eps).sqrt_().reciprocal_();
    sum.add_(rows.mul(inverse).mul_(dout.narrow(0, first, count)).sum(0, false, at::kDouble));
  });
  gradient.copy_(sum);
}

double gradient_norm(const Parameters& parameters) {
  std::vector<at::Tensor> sums;
  for (const Parameter& parameter : parameters.all())
    sums.push_back(sum_of(parameter.gradient, [&](const auto& part) { return part(parameter.gradient).square(); }));
  return std::sqrt(at::stack(sums).sum().item<double>());
}

void adamw_update(Parameters& parameters, const AdamWOptions& options, const AdamWStep& step) {
  for (const Parameter& parameter : parameters.all())
    for_parts(parameter.value, [&](const auto& part, std::int64_t) {
      const at::Tensor value = part(parameter.value);
      const Means means =
          means_after(part(parameter.mean), part(parameter.square), part(parameter.gradient), options, step);
      part(parameter.mean).copy_(means.mean);
      part(parameter.square).copy_(means.square);
      at::Tensor move = direction(means, options, step);
      if (parameter.decays) move.add_(value, options.weight_decay);
      value.sub_(move, step.rate);
    });
}

double squared_update_change(const Parameter& parameter, const AdamWOptions& adamw, const AdamWStep& update,
                             const at::Tensor& gradient, const at::Tensor& changed) {
  return sum_of(gradient,
                [&](const auto& part) {
                  const auto toward = [&](const at::Tensor& g) {
                    return direction(means_after(part(parameter.mean), part(parameter.square), part(g), adamw, update),
                                     adamw, update);
                  };
                  return toward(changed).sub_(toward(gradient)).mul_(update.rate).square_();
                })
      .template item<double>();
}

double squared_norm(const at::Tensor& a) {
  return sum_of(a, [&](const auto& part) { return f32(part(a)).square(); }).item<double>();
}
double inner_product(const at::Tensor& a, const at::Tensor& b) {
  return sum_of(a, [&](const auto& part) { return f32(part(a)).mul(part(b)); }).item<double>();
}
double squared_distance(const at::Tensor& a, const at::Tensor& b) {
  return sum_of(a, [&](const auto& part) { return f32(part(a)).sub(part(b)).square_(); }).item<double>();
}

void add_noise(const at::Tensor& tensor, const Noise& noise) {
  const float factor = static_cast<float>(noise.deviation) / kByteSumDeviation;
  for_parts(tensor, [&](const auto& part, std::int64_t first) {
    const at::Tensor to = part(tensor);
    const at::Tensor words =
        random_words(at::arange(first, first + to.numel(), tensor.options().dtype(at::kLong)), noise.key);
    const auto byte = [&](int shift) { return words.bitwise_right_shift(shift).bitwise_and_(255); };
    const at::Tensor sum = byte(0).add_(byte(8)).add_(byte(16)).add_(byte(24));
    to.copy_(f32(sum).sub_(510).mul_(factor).add_(to));
  });
}

}  // namespace tensors

const TrainArithmetic& tensor_train_arithmetic() {
  static constexpr TrainArithmetic kTable{.fake_quantize = tensors::fake_quantize,
                                          .norm_weight_gradient = tensors::norm_weight_gradient,
                                          .gradient_norm = tensors::gradient_norm,
                                          .adamw_update = tensors::adamw_update,
                                          .squared_update_change = tensors::squared_update_change,
                                          .squared_norm = tensors::squared_norm,
                                          .inner_product = tensors::inner_product,
                                          .squared_distance = tensors::squared_distance,
                                          .add_noise = tensors::add_noise};
  return kTable;
}

TrainPlace tensor_train_place(at::Device device) { return {tensor_place(device), &tensor_train_arithmetic()}; }

}  // namespace scalebits
