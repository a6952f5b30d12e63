#include "pipeline/search_passes.h"

#include "distributed/ordered_sums.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace scalebits {
namespace {

at::Tensor zeros(std::int64_t count, at::ScalarType type) { return at::zeros({count}, type); }

}  // namespace

LossTarget loss_target(LossTarget::Kind kind, const at::Tensor& windows, Decoder& decoder, WeightSource& reference) {
  LossTarget target{.kind = kind};
  if (kind == LossTarget::Kind::kl) {
    target.reference_hidden = decoder.hidden(windows);
    if (target.reference_hidden.defined()) target.reference_head = reference.head();
  }
  return target;
}

std::vector<ChannelScores> no_channel_scores(const Partition& partition) {
  std::vector<ChannelScores> scores;
  for (const MatrixPartition& matrix : partition.matrices)
    scores.push_back({std::vector<double>(static_cast<std::size_t>(matrix.rows)),
                      std::vector<double>(static_cast<std::size_t>(matrix.cols))});
  return scores;
}

SearchPasses::SearchPasses(const Checkpoint& checkpoint, const Recipe& recipe, const RoundedMatrices& matrices,
                           JobProcesses& processes, const SearchDevice& device)
    : checkpoint_(checkpoint), recipe_(recipe), matrices_(matrices), processes_(processes),
      engine_(make_search_engine(device, checkpoint, recipe, matrices, processes)) {}

LossTarget SearchPasses::target_of(const at::Tensor& windows, const BitPlan& plan) {
  if (recipe_.loss == LossTarget::Kind::kl) model_.use_full_precision();
  LossTarget target = loss_target(recipe_.loss, windows, decoder_, model_);
  model_.use(plan);
  return target;
}

std::int64_t SearchPasses::count_of(const at::Tensor& windows) const {
  return std::min<std::int64_t>(recipe_.micro_batches, windows.size(0));
}

SearchPasses::MicroBatch SearchPasses::micro_batch(const at::Tensor& windows, std::int64_t index) const {
  const auto [first, count] = part_range(windows.size(0), count_of(windows), index);
  return {windows.narrow(0, first, count), static_cast<double>(count) / static_cast<double>(windows.size(0))};
}

std::map<std::int64_t, SearchPasses::Begun> SearchPasses::begin_own(const at::Tensor& windows, const BitPlan& plan) {
  std::map<std::int64_t, Begun> begun;
  if (processes_.pipeline() == nullptr) return begun;
  for (std::int64_t index = processes_.replica(); index < count_of(windows); index += processes_.replicas().size()) {
    LossTarget& target = begun[index].target = target_of(micro_batch(windows, index).windows, plan);
    target.reference_head = begun.begin()->second.target.reference_head;  // one copy for all
  }
  // All targets come first: their passes take the memory of a batch that is begun.
  std::int64_t number = 0;
  for (auto& [index, batch] : begun)
    batch.pass = decoder_.begin(micro_batch(windows, index).windows, number++, static_cast<std::int64_t>(begun.size()));
  return begun;
}

void SearchPasses::share(Sums& sums, const std::vector<std::int64_t>& counts, std::size_t matrices_from) {
  PipelineStage* const pipeline = processes_.pipeline();
  if (pipeline == nullptr) return;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (counts[i] == 0) continue;
    const int owner = i < matrices_from ? pipeline->count() - 1
                                        : stage_of_matrix(checkpoint_.spec, pipeline->count(), i - matrices_from);
    if (sums[i].numel() == 0) sums[i] = zeros(counts[i], sums[i].scalar_type());
    pipeline->broadcast(sums[i], owner);
  }
}

void SearchPasses::gradient_pass(const BitPlan& plan, GradientKind kind, const at::Tensor& windows, Sums& sums,
                                 const Reduce& reduce) {
  std::vector<std::int64_t> counts;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    counts.push_back(sums[i].numel());
    if (i == 0 ? !has_loss() : !has_matrix(i - 1)) sums[i] = zeros(0, sums[i].scalar_type());
  }
  const auto begun = begin_own(windows, plan);
  sum_over_parts(processes_.replicas(), count_of(windows), sums, [&](std::int64_t index, Sums& own) {
    const MicroBatch batch = micro_batch(windows, index);
    GradientReducer reducer(matrices_, checkpoint_.spec, kind,
                            [&](std::size_t m, const at::Tensor& gradient) { reduce(m, gradient, batch, own); });
    double loss = 0;
    if (const auto found = begun.find(index); found != begun.end())
      loss = decoder_.finish(found->second.pass, found->second.target, reducer).mean;
    else
      loss = decoder_.loss_and_gradients(batch.windows, target_of(batch.windows, plan), reducer).mean;
    if (has_loss()) *own[0].data_ptr<double>() = batch.share * loss;
  });
  share(sums, counts, 1);
}

double SearchPasses::score_blocks(const BitPlan& plan, const at::Tensor& windows, SensitivityTable& table) {
  constexpr auto kWidths = static_cast<std::int64_t>(std::tuple_size_v<WidthScores>);
  Sums sums{zeros(1, at::kDouble)};
  for (const auto& matrix : matrices_)
    sums.push_back(zeros(matrix ? matrix->format().block_count() * kWidths : 0, at::kFloat));
  gradient_pass(plan, recipe_.gradient, windows, sums,
                [&](std::size_t m, const at::Tensor& gradient, const MicroBatch& batch, Sums& own) {
                  // The loss that a rounding error D costs is half of its quadratic form in the Fisher information
                  // N Σ_t g_t², N tokens adding g_t each, of which every one carries 1/N; other statistics are taken as
                  // they are.
                  float unit = static_cast<float>(batch.share);
                  if (recipe_.statistic == Statistic::fisher)
                    unit *= 0.5f * static_cast<float>(batch.windows.size(0) * (batch.windows.size(1) - 1));
                  auto* out = own[m + 1].data_ptr<float>();
                  for (const WidthScores& scores : model_.score_blocks(m, gradient, recipe_.statistic))
                    for (const float score : scores) *out++ += unit * score;
                });
  table.scores.resize(matrices_.size());
  for (std::size_t m = 0; m < matrices_.size(); ++m) {
    table.scores[m].resize(static_cast<std::size_t>(sums[m + 1].numel() / kWidths));
    const auto* sum = sums[m + 1].const_data_ptr<float>();
    for (WidthScores& scores : table.scores[m])
      for (float& score : scores) score = *sum++;
  }
  return *sums[0].data_ptr<double>();
}

double SearchPasses::score_channels(const BitPlan& plan, const at::Tensor& windows, int bits,
                                    std::vector<ChannelScores>& channels) {
  Sums sums{zeros(1, at::kDouble)};
  for (const auto& matrix : matrices_)
    sums.push_back(zeros(matrix ? matrix->format().rows + matrix->format().cols : 0, at::kDouble));
  gradient_pass(plan, recipe_.order_gradient, windows, sums,
                [&](std::size_t m, const at::Tensor& gradient, const MicroBatch& batch, Sums& own) {
                  const ChannelScores found = model_.score_channels(m, gradient, recipe_.order_statistic, bits);
                  auto* out = own[m + 1].data_ptr<double>();
                  for (const double score : found.rows) *out++ += batch.share * score;
                  for (const double score : found.cols) *out++ += batch.share * score;
                });
  for (std::size_t m = 0; m < matrices_.size(); ++m) {
    if (!matrices_[m]) continue;
    const auto* const rows = sums[m + 1].const_data_ptr<double>();
    const double* const cols = rows + matrices_[m]->format().rows;
    channels[m] = {{rows, cols}, {cols, cols + matrices_[m]->format().cols}};
  }
  return *sums[0].data_ptr<double>();
}

std::vector<std::vector<float>> SearchPasses::input_moments(const Partition& partition, const at::Tensor& windows) {
  const ModelSpec& spec = checkpoint_.spec;
  model_.use_full_precision();
  // The last matrix, where there are any of the vocabulary; one that also is the embedding is weighted as the head.
  const std::size_t head = partition.matrices.size() - 1;
  const bool has_head = head >= linear_count(spec);
  Sums sums;
  std::vector<std::int64_t> counts;
  for (std::size_t m = 0; m < partition.matrices.size(); ++m) {
    counts.push_back(m < linear_count(spec) || m == head ? partition.matrices[m].cols : 0);
    sums.push_back(zeros(has_matrix(m) ? counts.back() : 0, at::kDouble));
  }
  const LayerRange here = own_layers(spec, processes_.pipeline());
  const auto each_linear = [&](const LayerRange& layers, auto&& body) {
    for (std::int64_t layer = layers.first; layer < layers.last; ++layer)
      for (const LinearKind kind : linear_kinds(spec)) body(layer, kind, linear_index(spec, layer, kind));
  };
  sum_over_parts(processes_.replicas(), count_of(windows), sums, [&](std::int64_t index, Sums& own) {
    const MicroBatch batch = micro_batch(windows, index);
    InputMoments moments(spec.layers);
    const at::Tensor hidden = decoder_.hidden(batch.windows, &moments);
    if (has_head && hidden.defined())
      own[head].add_(hidden.reshape({-1, spec.hidden}).square().mean(0, false, at::kDouble), batch.share);
    each_linear(here, [&](std::int64_t layer, LinearKind kind, std::size_t m) {
      auto* out = own[m].data_ptr<double>();
      for (const float mean : moments.mean_squares(layer, input_site(kind))) *out++ += batch.share * mean;
    });
  });
  share(sums, counts, 0);
  std::vector<std::vector<float>> means(partition.matrices.size());
  for (std::size_t m = 0; m < means.size(); ++m) {
    const auto* const sum = sums[m].const_data_ptr<double>();
    means[m].assign(sum, sum + sums[m].numel());
  }
  return means;
}

double SearchPasses::validation_loss(const BitPlan& plan, const at::Tensor& windows) {
  Sums sums{zeros(has_loss() ? 1 : 0, at::kDouble)};
  sum_over_parts(processes_.replicas(), count_of(windows), sums, [&](std::int64_t index, Sums& own) {
    const MicroBatch batch = micro_batch(windows, index);
    auto found = validation_targets_.find(index);
    if (found == validation_targets_.end()) {
      found = validation_targets_.emplace(index, target_of(batch.windows, plan)).first;
      found->second.reference_head = validation_targets_.begin()->second.reference_head;  // one copy for all
    }
    model_.use(plan);
    const double loss = decoder_.loss(batch.windows, found->second).mean;
    if (has_loss()) *own[0].data_ptr<double>() = batch.share * loss;
  });
  share(sums, {1}, 1);
  return *sums[0].data_ptr<double>();
}

}  // namespace scalebits
