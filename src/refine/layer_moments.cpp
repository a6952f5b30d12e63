#include "refine/layer_moments.h"

#include "core/error.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace scalebits {
namespace {

constexpr std::int64_t kRowsOfProduct = 2048;
constexpr std::int64_t kStrip = 256;

at::Tensor on_host(const at::Tensor& x) { return x.to(at::kCPU, at::kFloat, false, /*copy=*/true); }

/// On and below the diagonal, in strips of rows; what stands above it in a strip is of no use.
void add_lower_moments(at::Tensor& sum, const at::Tensor& x) {
  const std::int64_t cols = x.size(1);
  if (!sum.defined()) sum = at::zeros({cols, cols}, at::kDouble);
  for (std::int64_t first = 0; first < cols; first += kStrip) {
    const std::int64_t count = std::min(kStrip, cols - first), behind = first + count;
    sum.narrow(0, first, count)
        .narrow(1, 0, behind)
        .add_(at::matmul(x.narrow(1, first, count).t(), x.narrow(1, 0, behind)));
  }
}

}  // namespace

void LayerInputs::linear_input(std::int64_t, InputSite site, const at::Tensor& x) {
  parts_[static_cast<std::size_t>(site)].push_back(on_host(x));
}

at::Tensor LayerInputs::take(InputSite site, std::size_t first, std::size_t count) {
  std::vector<at::Tensor>& parts = parts_[static_cast<std::size_t>(site)];
  SCALEBITS_ASSERT(count > 0 && first + count <= parts.size());
  const at::TensorList taken(parts.data() + first, count);
  at::Tensor rows = count == 1 ? taken[0] : at::cat(taken);
  std::fill_n(parts.begin() + static_cast<std::ptrdiff_t>(first), count, at::Tensor());
  return rows;
}

void LayerInputs::clear() {
  for (auto& parts : parts_) parts.clear();
}

void SiteMoments::linear_input(std::int64_t, InputSite site, const at::Tensor& x) {
  if (site != site_) return;
  if (waiting_.empty() && x.is_cpu() && x.size(0) >= kRowsOfProduct) return add(x, 1);
  waiting_.push_back(on_host(x));
  std::int64_t rows = 0;
  for (const at::Tensor& piece : waiting_) rows += piece.size(0);
  if (rows >= kRowsOfProduct) add_waiting();
}

void SiteMoments::finish() {
  add_waiting();
  inputs_.tril_();
  inputs_.add_(inputs_.tril(-1).t());
}

void SiteMoments::add_waiting() {
  if (waiting_.empty()) return;
  add(at::cat(waiting_), waiting_.size());
  waiting_.clear();
}

void SiteMoments::add(const at::Tensor& x, std::size_t pieces) {
  add_lower_moments(inputs_, x);
  if (reference_ == nullptr) return;
  const at::Tensor part = at::matmul(reference_->take(site_, done_, pieces).sub_(x).t(), x);
  difference_ = difference_.defined() ? difference_.add_(part) : part.to(at::kDouble);
  done_ += pieces;
}

}  // namespace scalebits
