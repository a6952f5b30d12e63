#include "sensitivity/search_model.h"

#include "sensitivity/block_scores.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

namespace scalebits {

SearchModel::SearchModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices)
    : unrounded_(checkpoint), matrices_(matrices), spec_(checkpoint.spec), linears_(linear_count(spec_)) {}

void SearchModel::use(const BitPlan& plan) {
  plan_ = &plan;
  embedding_ = head_ = at::Tensor();
}

void SearchModel::use_full_precision() {
  plan_ = nullptr;
  embedding_ = head_ = at::Tensor();
}

std::vector<WidthScores> SearchModel::score_blocks(std::size_t matrix, const at::Tensor& gradient,
                                                   Statistic statistic) {
  return scalebits::score_blocks(*matrices_[matrix], gradient.const_data_ptr<float>(), statistic);
}

ChannelScores SearchModel::score_channels(std::size_t matrix, const at::Tensor& gradient, Statistic statistic,
                                          int bits) {
  return scalebits::score_channels(*matrices_[matrix], gradient.const_data_ptr<float>(), statistic, bits);
}

const RoundedMatrix* SearchModel::rounded(std::size_t index) const {
  return plan_ != nullptr && index < matrices_.size() ? matrices_[index].get() : nullptr;
}

void SearchModel::dequantize(std::size_t index, float* out) { matrices_[index]->dequantize(plan_->widths[index], out); }

at::Tensor SearchModel::dequantized(std::size_t index, const std::string& buffer) {
  const MatrixFormat& format = matrices_[index]->format();
  at::Tensor weight = workspace_.take(buffer, {format.rows, format.cols}, at::kFloat);
  dequantize(index, weight.data_ptr<float>());
  return weight;
}

at::Tensor SearchModel::linear(std::int64_t layer, LinearKind kind) {
  const std::size_t index = linear_index(spec_, layer, kind);
  if (rounded(index) == nullptr) return unrounded_.linear(layer, kind);
  return dequantized(index, fmt::format("linear {}", static_cast<int>(kind)));
}

at::Tensor SearchModel::embedding() {
  if (!embedding_.defined())
    embedding_ = rounded(linears_) != nullptr ? dequantized(linears_, "embedding") : unrounded_.embedding();
  return embedding_;
}

void SearchModel::embed(const at::Tensor& ids, const at::Tensor& rows) {
  const bool whole = spec_.tied_head || rounded(linears_) != nullptr;  // made for the head, or from codes, anyway
  whole ? WeightSource::embed(ids, rows) : unrounded_.embed(ids, rows);
}

at::Tensor SearchModel::head() {
  if (spec_.tied_head) return embedding();
  if (!head_.defined())
    head_ = rounded(linears_ + 1) != nullptr ? dequantized(linears_ + 1, "head") : unrounded_.head();
  return head_;
}

GradientReducer::GradientReducer(const RoundedMatrices& matrices, const ModelSpec& spec, GradientKind kind,
                                 Reduce reduce)
    : matrices_(matrices), spec_(spec), linears_(linear_count(spec)), kind_(kind), reduce_(std::move(reduce)) {}

bool GradientReducer::wants_embedding_gradient() const {
  for (std::size_t index = linears_; index < matrices_.size(); ++index)
    if (matrices_[index]) return true;
  return false;
}

void GradientReducer::hand_on(std::size_t matrix, const at::Tensor& gradient) {
  if (matrix >= matrices_.size() || !matrices_[matrix]) return;
  reduce_(matrix, gradient.contiguous());
}

void GradientReducer::linear_gradient(std::int64_t layer, LinearKind kind, const at::Tensor& gradient) {
  hand_on(linear_index(spec_, layer, kind), gradient);
}
void GradientReducer::embedding_gradient(const at::Tensor& gradient) { hand_on(linears_, gradient); }
void GradientReducer::head_gradient(const at::Tensor& gradient) { hand_on(linears_ + 1, gradient); }

void InputMoments::linear_input(std::int64_t layer, InputSite site, const at::Tensor& x) {
  Sum& sum = sums_[static_cast<std::size_t>(4 * layer) + static_cast<std::size_t>(site)];
  const at::Tensor squares = at::square(x).sum(0, false, at::kDouble).to(at::kCPU);
  sum.squares.resize(static_cast<std::size_t>(squares.numel()));
  for (std::int64_t i = 0; i < squares.numel(); ++i)
    sum.squares[static_cast<std::size_t>(i)] += squares.data_ptr<double>()[i];
  sum.tokens += x.size(0);
}

std::vector<float> InputMoments::mean_squares(std::int64_t layer, InputSite site) const {
  const Sum& sum = sums_[static_cast<std::size_t>(4 * layer) + static_cast<std::size_t>(site)];
  std::vector<float> means(sum.squares.size());
  for (std::size_t i = 0; i < means.size(); ++i)
    means[i] = static_cast<float>(sum.squares[i] / static_cast<double>(sum.tokens));
  return means;
}

}  // namespace scalebits
