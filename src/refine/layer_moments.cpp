#include "refine/layer_moments.h"

#include <ATen/ATen.h>

namespace scalebits {
namespace {

void add_to(at::Tensor& sum, const at::Tensor& part) {
  const at::Tensor exact = part.to(at::kDouble);
  sum = sum.defined() ? sum.add_(exact) : exact;
}

}  // namespace

void LayerInputs::linear_input(std::int64_t, InputSite site, const at::Tensor& x) {
  parts_[static_cast<std::size_t>(site)].push_back(x.clone());
}

void LayerInputs::clear() {
  for (auto& parts : parts_) parts.clear();
}

void SiteMoments::linear_input(std::int64_t, InputSite site, const at::Tensor& x) {
  if (site != site_) return;
  add_to(inputs_, at::matmul(x.t(), x));
  if (reference_ != nullptr) add_to(difference_, at::matmul((reference_->at_site(site, batch_) - x).t(), x));
  ++batch_;
}

}  // namespace scalebits
