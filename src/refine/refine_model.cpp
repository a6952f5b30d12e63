#include "refine/refine_model.h"

#include "core/error.h"
#include "core/parallel.h"
#include "format/packed_matrix.h"
#include "graph/sent_weights.h"
#include "refine/code_descent.h"
#include "refine/gptq.h"
#include "refine/layer_moments.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace scalebits {
namespace {

constexpr InputSite kSites[] = {InputSite::attention, InputSite::output, InputSite::mlp, InputSite::down};

at::Tensor index_of(const ChannelOrderPtr& order) {
  const at::Tensor index = at::empty({static_cast<std::int64_t>(order->order.size())}, at::kLong);
  std::copy(order->order.begin(), order->order.end(), index.data_ptr<std::int64_t>());
  return index;
}

/// Rows and columns of a matrix over the input channels, in the order they are stored in.
at::Tensor in_stored_order(const at::Tensor& moments, const ChannelOrderPtr& order) {
  if (!order) return moments;
  const at::Tensor index = index_of(order);
  return moments.index_select(0, index).index_select(1, index);
}

at::Tensor stored_weights(const RoundedMatrix& matrix) {
  const std::int64_t rows = matrix.format().rows, cols = matrix.format().cols;
  const at::Tensor weights = at::empty({rows, cols}, at::kFloat);
  parallel_for(rows, [&](std::int64_t row) {
    std::vector<float> values(static_cast<std::size_t>(matrix.padded_cols()));
    matrix.stored_row(row, values);
    std::copy_n(values.begin(), cols, weights.data_ptr<float>() + row * cols);
  });
  return weights;
}

/// What one site's matrices share: one factor for each order that its inputs are stored in.
class SiteFactors {
 public:
  /// `rows`: of all matrices of the site.
  SiteFactors(const SiteMoments& moments, std::int64_t rows, const FeedbackOptions& options, std::string where)
      : moments_(moments), rows_(rows), options_(options), where_(std::move(where)) {}

  /// inverse_factor U of hessian(order), f32.
  const at::Tensor& factor(const ChannelOrderPtr& order) { return at(order).factor; }
  /// The damped moments of the inputs in stored order, f32.
  const at::Tensor& hessian(const ChannelOrderPtr& order) { return at(order).hessian; }

  /// Adds asymmetry · W D U^T U, D being the differences of the inputs: where W must be for the same outputs.
  void correct(at::Tensor& weights, const ChannelOrderPtr& order) {
    const Entry& entry = at(order);
    if (entry.correction.defined()) {
      weights.addmm_(weights.clone(), entry.correction, 1, options_.asymmetry);
    } else if (entry.difference.defined()) {
      const at::Tensor moved = at::matmul(at::matmul(weights, entry.difference), entry.factor.t());
      weights.addmm_(moved, entry.factor, 1, options_.asymmetry);
    }
  }

 private:
  struct Entry {
    at::Tensor hessian, factor;
    at::Tensor difference, correction;  // D, or D U^T U where the site has so many rows that this is less work
  };
  const Entry& at(const ChannelOrderPtr& order) {
    Entry& entry = entries_[order.get()];
    if (entry.factor.defined()) return entry;
    const at::Tensor hessian = damped_hessian(in_stored_order(moments_.inputs(), order), options_.damping, where_);
    entry.factor = inverse_factor(hessian);
    entry.hessian = hessian.to(at::kFloat);
    if (!moments_.differences().defined()) return entry;
    entry.difference = in_stored_order(moments_.differences(), order).to(at::kFloat);
    if (rows_ < entry.factor.size(0)) return entry;
    entry.correction = at::matmul(at::matmul(entry.difference, entry.factor.t()), entry.factor);
    entry.difference = at::Tensor();
    return entry;
  }

  const SiteMoments& moments_;
  std::int64_t rows_;
  const FeedbackOptions& options_;
  std::string where_;
  std::map<const ChannelOrder*, Entry> entries_;
};

}  // namespace

void pack_refined(const RoundedMatrices& matrices, const BitPlan& plan, const PackedBlobs& blobs, std::size_t i,
                  std::span<std::byte> out) {
  if (blobs[i].empty()) return matrices[i]->pack(plan.widths[i], out);
  SCALEBITS_ASSERT(blobs[i].size() == out.size());
  std::copy(blobs[i].begin(), blobs[i].end(), out.begin());
}

void RefinedModel::dequantize(std::size_t index, float* out) {
  if (blobs_[index].empty()) return SearchModel::dequantize(index, out);
  const MatrixFormat& format = matrix(index).format();
  const PackedMatrix packed(format, blobs_[index], matrix(index).name());
  parallel_for(format.rows, [&](std::int64_t row) {
    std::vector<float> values(static_cast<std::size_t>(format.cols));
    packed.dequantize_rows(row, 1, values);
    matrix(index).to_original_row(row, values, out);
  });
}

PackedBlobs round_with_feedback(const Checkpoint& checkpoint, WeightSource& exact, const RoundedMatrices& matrices,
                                const BitPlan& plan, const at::Tensor& ids, const FeedbackOptions& options,
                                const std::function<void(std::int64_t layer)>& on_layer) {
  const at::NoGradGuard no_grad;
  PackedBlobs blobs(matrices.size());
  RefinedModel model(checkpoint, matrices, blobs);
  model.use(plan);
  SentWeights rounded(model, options.decoder);
  Decoder decoder(checkpoint.spec, rounded, options.decoder), exact_decoder(checkpoint.spec, exact, options.decoder);
  Decoder::Walk walk(decoder, ids), exact_walk(exact_decoder, ids);
  const bool asymmetric = options.asymmetry > 0;
  LayerInputs exact_inputs;
  const LayerRange layers = own_layers(checkpoint.spec, options.decoder.pipeline);
  for (std::int64_t layer = layers.first; layer < layers.last; ++layer) {
    if (on_layer) on_layer(layer);
    exact_inputs.clear();
    if (asymmetric) exact_walk.advance(&exact_inputs);
    for (const InputSite site : kSites) {
      SiteMoments moments(site, asymmetric ? &exact_inputs : nullptr);
      std::int64_t rows = 0;
      for (const LinearKind kind : linear_kinds(checkpoint.spec))
        if (const auto& matrix = matrices[linear_index(checkpoint.spec, layer, kind)];
            input_site(kind) == site && matrix)
          rows += matrix->format().rows;
      if (rows == 0) continue;
      walk.look(site, moments);
      moments.finish();
      SiteFactors factors(moments, rows, options, linear_name(layer, LinearKind::q));
      for (const LinearKind kind : linear_kinds(checkpoint.spec)) {
        const std::size_t index = linear_index(checkpoint.spec, layer, kind);
        if (input_site(kind) != site || !matrices[index]) continue;
        const RoundedMatrix& matrix = *matrices[index];
        const ChannelOrderPtr& order = matrix.partition().col_order;
        at::Tensor weights = stored_weights(matrix);
        factors.correct(weights, order);
        const std::vector<std::uint8_t>& widths = plan.widths[index];
        const at::Tensor target = weights.clone();
        CodedMatrix coded =
            round_with_feedback(matrix, widths, std::move(weights), factors.factor(order), options.clip_search);
        descend_codes(matrix, widths, target, factors.hessian(order), options.sweeps, coded);
        std::vector<std::byte> blob(packed_bytes(matrix.format(), widths));
        pack(coded, widths, blob);
        blobs[index] = std::move(blob);
      }
    }
    walk.advance();
  }
  return blobs;
}

}  // namespace scalebits
