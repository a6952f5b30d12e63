#include "sensitivity/device_search_model.h"

#include "graph/tensor_arithmetic.h"
#include "sensitivity/device_matrix.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

namespace scalebits {

DeviceSearchModel::DeviceSearchModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices, at::Device device,
                                     at::ScalarType operand, bool keep)
    : spec_(checkpoint.spec), matrices_(matrices), linears_(linear_count(spec_)), operand_(operand),
      weights_(checkpoint, device, operand, keep), workspace_(device) {}

std::vector<WidthScores> DeviceSearchModel::score_blocks(std::size_t matrix, const at::Tensor& gradient,
                                                         Statistic statistic) {
  const RoundedMatrix& rounded = *matrices_[matrix];
  return DeviceMatrix(rounded, weights_.device()).score_blocks(weights_.stored(rounded.name()), gradient, statistic);
}

ChannelScores DeviceSearchModel::score_channels(std::size_t matrix, const at::Tensor& gradient, Statistic statistic,
                                                int bits) {
  const RoundedMatrix& rounded = *matrices_[matrix];
  return DeviceMatrix(rounded, weights_.device())
      .score_channels(weights_.stored(rounded.name()), gradient, statistic, bits);
}

at::Tensor DeviceSearchModel::dequantized(std::size_t index, const std::string& buffer) {
  const RoundedMatrix& matrix = *matrices_[index];
  const at::Tensor weight = workspace_.take(buffer, {matrix.format().rows, matrix.format().cols}, operand_);
  DeviceMatrix(matrix, weights_.device()).dequantize(weights_.stored(matrix.name()), plan_->widths[index], weight);
  return weight;
}

at::Tensor DeviceSearchModel::linear(std::int64_t layer, LinearKind kind) {
  const std::size_t index = linear_index(spec_, layer, kind);
  if (!is_rounded(index)) return weights_.linear(layer, kind);
  return dequantized(index, fmt::format("linear {}", static_cast<int>(kind)));
}

at::Tensor DeviceSearchModel::embedding() {
  return is_rounded(linears_) ? dequantized(linears_, "head") : weights_.embedding();
}

void DeviceSearchModel::embed(const at::Tensor& ids, const at::Tensor& rows) {
  if (!is_rounded(linears_)) return weights_.embed(ids, rows);
  const DeviceMatrix matrix(*matrices_[linears_], weights_.device());
  const at::Tensor flat = ids.flatten();
  // The residual stream starts in f32, whatever the type of the head's operand. The rows' weights come over first, and
  // are rounded where they lie.
  for_row_pieces(flat.numel(), spec_.hidden, kTensorPiece, [&](std::int64_t first, std::int64_t count) {
    const at::Tensor some = flat.narrow(0, first, count), out = rows.narrow(0, first, count);
    weights_.send_rows(matrices_[linears_]->name(), some, out);
    matrix.dequantize_rows(out, {some.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(count)},
                           plan_->widths[linears_], out);
  });
}

at::Tensor DeviceSearchModel::head() {
  if (spec_.tied_head) return embedding();
  return is_rounded(linears_ + 1) ? dequantized(linears_ + 1, "head") : weights_.head();
}

}  // namespace scalebits
