#include "refine/layer_moments.h"

#include "core/error.h"

#include <ATen/ATen.h>

namespace scalebits {
namespace {

constexpr std::int64_t kRowsOfProduct = 2048;

at::Tensor on_host(const at::Tensor& x) { return x.to(at::kCPU, at::kFloat, false, /*copy=*/true); }

void add_to(at::Tensor& sum, const at::Tensor& part) {
  const at::Tensor exact = part.to(at::kDouble);
  sum = sum.defined() ? sum.add_(exact) : exact;
}

}  // namespace

void LayerInputs::linear_input(std::int64_t, InputSite site, const at::Tensor& x) {
  parts_[static_cast<std::size_t>(site)].push_back(on_host(x));
}

void LayerInputs::clear() {
  for (auto& parts : parts_) parts.clear();
}

void SiteMoments::linear_input(std::int64_t, InputSite site, const at::Tensor& x) {
  if (site != site_) return;
  waiting_.push_back(on_host(x));
  std::int64_t rows = 0;
  for (const at::Tensor& piece : waiting_) rows += piece.size(0);
  if (rows >= kRowsOfProduct) add_waiting();
}

void SiteMoments::add_waiting() {
  if (waiting_.empty()) return;
  const at::Tensor x = at::cat(waiting_);
  add_to(inputs_, at::matmul(x.t(), x));
  if (reference_ != nullptr) {
    const std::vector<at::Tensor>& parts = reference_->at_site(site_);
    SCALEBITS_ASSERT(done_ + waiting_.size() <= parts.size());
    const at::Tensor exact = at::cat(at::TensorList(parts.data() + done_, waiting_.size()));
    add_to(difference_, at::matmul((exact - x).t(), x));
  }
  done_ += waiting_.size();
  waiting_.clear();
}

}  // namespace scalebits
