#include "refine/tune.h"

#include "core/error.h"
#include "core/lanes.h"
#include "core/parallel.h"
#include "format/packed_matrix.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

constexpr float kMomentum = 0.9f, kSquareMemory = 0.99f;
constexpr std::int64_t kRowsPerTask = 16;

/// One step of Adam on the levels of a group. `mean` is the running gradient in units of a level; `square` the running
/// mean square of the whole group.
SCALEBITS_CLONES
void step_group(float* level, float* mean, float& square, const float* gradient, std::int64_t count, float scale,
                float top_code, float rate, float mean_correction, float square_correction) {
  float sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += gradient[i] * gradient[i];
  square = kSquareMemory * square + (1 - kSquareMemory) * scale * scale * sum / static_cast<float>(count);
  if (square <= 0) return;
  const float step = rate * mean_correction / std::sqrt(square * square_correction);
  for (std::int64_t i = 0; i < count; ++i) {
    mean[i] = kMomentum * mean[i] + (1 - kMomentum) * scale * gradient[i];
    const float moved = level[i] - step * mean[i];
    level[i] = moved < -0.49f ? -0.49f : moved > top_code + 0.49f ? top_code + 0.49f : moved;
  }
}

class TunedMatrix {
 public:
  TunedMatrix(const RoundedMatrix& matrix, std::span<const std::uint8_t> widths, CodedMatrix coded)
      : matrix_(matrix), widths_(widths), coded_(std::move(coded)), level_(coded_.codes.begin(), coded_.codes.end()),
        mean_(level_.size()), square_(coded_.groups.size()) {}

  const MatrixFormat& format() const { return matrix_.format(); }

  /// [rows, cols] f32 in the original order.
  void dequantize(float* out) const {
    each_row([&](std::int64_t row) {
      thread_local std::vector<float> values;
      values.resize(static_cast<std::size_t>(matrix_.format().cols));
      each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
        const GroupCode code = coded_.groups[group];
        const float scale = bits > 0 ? matrix_.side().scale(code.scale, bits) : 0.0f;
        const float zero = bits > 0 ? matrix_.side().zero(code.zero, bits) : 0.0f;
        const float* level = level_.data() + row * matrix_.format().cols + first;
        for (std::int64_t i = 0; i < count; ++i)
          values[static_cast<std::size_t>(first + i)] = (std::nearbyintf(level[i]) - zero) * scale;
      });
      matrix_.to_original_row(row, values, out);
    });
  }

  /// `gradient` [rows, cols] in the original order; `step` counts from 1.
  void update(const float* gradient, float rate, int step) {
    const float mean_correction = 1 / (1 - std::pow(kMomentum, static_cast<float>(step)));
    const float square_correction = 1 / (1 - std::pow(kSquareMemory, static_cast<float>(step)));
    each_row([&](std::int64_t row) {
      thread_local std::vector<float> stored;
      stored.resize(static_cast<std::size_t>(matrix_.padded_cols()));
      matrix_.stored_row_of(gradient, row, stored);
      each_group(row, [&](std::int64_t first, std::int64_t count, std::size_t group, int bits) {
        if (bits == 0) return;
        const auto at = static_cast<std::size_t>(row * matrix_.format().cols + first);
        step_group(level_.data() + at, mean_.data() + at, square_[group], stored.data() + first, count,
                   matrix_.side().scale(coded_.groups[group].scale, bits), static_cast<float>((1 << bits) - 1), rate,
                   mean_correction, square_correction);
      });
    });
  }

  std::vector<std::byte> packed() {
    for (std::size_t i = 0; i < level_.size(); ++i)
      coded_.codes[i] = static_cast<std::uint8_t>(std::nearbyintf(level_[i]));
    std::vector<std::byte> blob(packed_bytes(matrix_.format(), widths_));
    pack(coded_, widths_, blob);
    return blob;
  }

 private:
  template <typename Body>
  void each_row(const Body& body) const {
    const std::int64_t rows = matrix_.format().rows;
    parallel_for(divide_up(rows, kRowsPerTask), [&](std::int64_t task) {
      for (std::int64_t row = task * kRowsPerTask; row < std::min(rows, (task + 1) * kRowsPerTask); ++row) body(row);
    });
  }
  /// body(first column, columns, index of the group, its width)
  template <typename Body>
  void each_group(std::int64_t row, const Body& body) const {
    const MatrixFormat& format = matrix_.format();
    for (std::int64_t group = 0; group < matrix_.groups_per_row(); ++group) {
      const std::int64_t first = group * format.group_cols;
      body(first, std::min<std::int64_t>(format.group_cols, format.cols - first),
           static_cast<std::size_t>(row * matrix_.groups_per_row() + group), matrix_.width_of(widths_, row, group));
    }
  }

  const RoundedMatrix& matrix_;
  std::span<const std::uint8_t> widths_;
  CodedMatrix coded_;
  std::vector<float> level_, mean_;  // [rows, cols], stored order
  std::vector<float> square_;        // [groups]
};

class TunedModel : public SearchModel {
 public:
  TunedModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices, const BitPlan& plan,
             const PackedBlobs& start)
      : SearchModel(checkpoint, matrices), spec_(checkpoint.spec), tuned_(matrices.size()) {
    use(plan);
    for (std::size_t m = 0; m < linear_count(spec_); ++m) {
      if (!matrices[m]) continue;
      const RoundedMatrix& matrix = *matrices[m];
      CodedMatrix coded = start[m].empty() ? matrix.nearest(plan.widths[m])
                                           : unpack(PackedMatrix(matrix.format(), start[m], matrix.name()));
      tuned_[m] = std::make_unique<TunedMatrix>(matrix, plan.widths[m], std::move(coded));
    }
  }

  at::Tensor linear(std::int64_t layer, LinearKind kind) override {
    const std::size_t index = linear_index(spec_, layer, kind);
    if (!tuned_[index]) return SearchModel::linear(layer, kind);
    const MatrixFormat& format = tuned_[index]->format();
    at::Tensor weight =
        workspace_.take(fmt::format("tuned {}", static_cast<int>(kind)), {format.rows, format.cols}, at::kFloat);
    tuned_[index]->dequantize(weight.data_ptr<float>());
    return weight;
  }

  TunedMatrix* tuned(std::size_t index) { return tuned_[index].get(); }

 private:
  const ModelSpec& spec_;
  std::vector<std::unique_ptr<TunedMatrix>> tuned_;
  Workspace workspace_;
};

}  // namespace

PackedBlobs tune_codes(const Checkpoint& checkpoint, const RoundedMatrices& matrices, const BitPlan& plan,
                       const PackedBlobs& start, const at::Tensor& ids, const TuneOptions& options,
                       const std::function<void(int step, double divergence)>& on_step) {
  const at::NoGradGuard no_grad;
  TunedModel model(checkpoint, matrices, plan, start);
  CheckpointWeights exact(checkpoint);
  Decoder decoder(checkpoint.spec, model, options.decoder), teacher(checkpoint.spec, exact, options.decoder);
  const std::int64_t available = ids.size(0), per_step = std::min<std::int64_t>(options.windows_per_step, available);
  for (int step = 0; step < options.steps; ++step) {
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < per_step; ++i) rows.push_back((step * per_step + i) % available);
    const at::Tensor windows = ids.index_select(0, at::tensor(rows, at::TensorOptions().dtype(at::kLong)));
    const float rate = static_cast<float>(options.rate * (1 - static_cast<double>(step) / options.steps));
    GradientReducer update(matrices, checkpoint.spec, GradientKind::mean, [&](std::size_t m, const float* gradient) {
      if (TunedMatrix* tuned = model.tuned(m)) tuned->update(gradient, rate, step + 1);
    });
    const LossTarget target{LossTarget::Kind::kl, teacher.hidden(windows), exact.head()};
    const double divergence = decoder.loss_and_gradients(windows, target, update).mean;
    if (on_step) on_step(step, divergence);
  }
  PackedBlobs blobs(matrices.size());
  for (std::size_t m = 0; m < matrices.size(); ++m)
    if (TunedMatrix* tuned = model.tuned(m)) blobs[m] = tuned->packed();
  return blobs;
}

}  // namespace scalebits
