#include "refine/tune.h"

#include "core/error.h"
#include "format/packed_matrix.h"
#include "graph/sent_weights.h"
#include "refine/tuned_matrix.h"
#include "safetensors/safetensors.h"
#include "safetensors/safetensors_writer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace scalebits {
namespace {

constexpr const char* kMetadataKey = "scalebits_tuning";

class TunedModel : public SearchModel {
 public:
  TunedModel(const Checkpoint& checkpoint, const RoundedMatrices& matrices, const BitPlan& plan,
             const PackedBlobs& start, const TuneOptions& options)
      : SearchModel(checkpoint, matrices), pipeline_(options.decoder.pipeline), tuned_(matrices.size()) {
    const std::size_t embedding = linear_count(checkpoint.spec);
    rows_travel_ = pipeline_ && checkpoint.spec.tied_head && embedding < matrices.size() && matrices[embedding];
    for (std::size_t m = 0; m < matrices.size(); ++m) {
      if (!matrices[m] || !owns_matrix(checkpoint.spec, pipeline_, m)) continue;
      const RoundedMatrix& matrix = *matrices[m];
      const CodedMatrix coded = start[m].empty() ? matrix.nearest(plan.widths[m])
                                                 : unpack(PackedMatrix(matrix.format(), start[m], matrix.name()));
      const bool linear = m < linear_count(checkpoint.spec);
      if (!linear && std::ranges::all_of(plan.widths[m], [](int width) { return width == kMaxWidth; })) continue;
      const auto pace = linear ? TunedMatrix::Pace::by_group : TunedMatrix::Pace::by_use;
      tuned_[m] = std::make_unique<TunedMatrix>(
          matrix, plan.widths[m], coded, TunedMatrix::Options{.pace = pace, .sides_move = options.side_rate > 0});
    }
  }

  /// Null where the matrix is not rounded or another stage's, or is an embedding or a head that 8 bits hold well
  /// enough.
  const std::vector<std::unique_ptr<TunedMatrix>>& tuned() const { return tuned_; }

  /// Before a pass over `ids`. A tied embedding is tuned by the last stage and looked up by the first, which is sent
  /// the rows that it will ask for.
  void prepare(const BitPlan& plan, const at::Tensor& ids, std::int64_t hidden) {
    use(plan);  // what it keeps of the embedding is of the step before
    if (!rows_travel_ || (!pipeline_->is_first() && !pipeline_->is_last())) return;
    rows_ = at::empty({ids.numel(), hidden}, at::kFloat);
    next_row_ = 0;
    if (pipeline_->is_first()) return pipeline_->receive(rows_, pipeline_->count() - 1);
    SearchModel::embed(ids, rows_);
    pipeline_->send(rows_, 0);
  }

  void embed(const at::Tensor& ids, const at::Tensor& rows) override {
    if (!rows_travel_) return SearchModel::embed(ids, rows);
    rows.copy_(rows_.narrow(0, next_row_, ids.numel()));  // micro-batches ask for theirs in order
    next_row_ += ids.numel();
  }

 private:
  void dequantize(std::size_t index, float* out) override {
    tuned_[index] ? tuned_[index]->dequantize(out) : SearchModel::dequantize(index, out);
  }
  PipelineStage* pipeline_;
  std::vector<std::unique_ptr<TunedMatrix>> tuned_;
  bool rows_travel_ = false;
  at::Tensor rows_;  // of this step's tokens
  std::int64_t next_row_ = 0;
};

}  // namespace

struct CodeTuner::State {
  const Checkpoint& checkpoint;
  const RoundedMatrices& matrices;
  const BitPlan& plan;
  at::Tensor ids;
  TuneOptions options;
  TunedModel model;
  SentWeights rounded;
  WeightSource& exact;
  Decoder decoder, teacher;
  int done = 0;
  std::map<std::int64_t, at::Tensor> taught;  // the teacher's hidden states, by a batch's first window

  /// Asked once for each batch that comes again. In a pipeline all stages come to the same decisions.
  at::Tensor teach(std::int64_t first_window, const at::Tensor& windows) {
    if (options.steps * windows.size(0) <= ids.size(0)) return teacher.hidden(windows);
    const auto [found, is_new] = taught.try_emplace(first_window);
    if (is_new) found->second = teacher.hidden(windows);
    return found->second;
  }

  State(const Checkpoint& of, WeightSource& exact_weights, const RoundedMatrices& of_plan, const BitPlan& widths,
        const PackedBlobs& start, at::Tensor windows, const TuneOptions& how)
      : checkpoint(of), matrices(of_plan), plan(widths), ids(std::move(windows)), options(how),
        model(of, of_plan, widths, start, how), rounded(model, how.decoder), exact(exact_weights),
        decoder(of.spec, rounded, how.decoder), teacher(of.spec, exact, how.decoder) {}

  template <typename Body>
  void each_tensor(const Body& body) const {
    for (std::size_t m = 0; m < model.tuned().size(); ++m)
      if (model.tuned()[m])
        for (const TunedMatrix::StateTensor& tensor : model.tuned()[m]->state())
          body(fmt::format("{}.{}", matrices[m]->name(), tensor.name), tensor.dtype, tensor.bytes);
  }
};

CodeTuner::CodeTuner(const Checkpoint& checkpoint, WeightSource& exact, const RoundedMatrices& matrices,
                     const BitPlan& plan, const PackedBlobs& start, const at::Tensor& ids, const TuneOptions& options)
    : state_(std::make_unique<State>(checkpoint, exact, matrices, plan, start, ids, options)) {}
CodeTuner::~CodeTuner() = default;

int CodeTuner::steps() const { return state_->options.steps; }
int CodeTuner::steps_done() const { return state_->done; }
void CodeTuner::shorten(int steps) {
  state_->options.steps = std::clamp(steps, state_->done + 1, std::max(state_->done + 1, state_->options.steps));
}

double CodeTuner::step() {
  const at::NoGradGuard no_grad;
  State& state = *state_;
  const std::int64_t available = state.ids.size(0);
  const std::int64_t per_step = std::min<std::int64_t>(state.options.windows_per_step, available);
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < per_step; ++i) rows.push_back((state.done * per_step + i) % available);
  const at::Tensor windows = state.ids.index_select(0, at::tensor(rows, at::TensorOptions().dtype(at::kLong)));
  const double left = 1 - static_cast<double>(state.done) / state.options.steps;
  const TuneRates rates{static_cast<float>(state.options.rate * left),
                        static_cast<float>(state.options.side_rate * left)};
  ++state.done;
  state.model.prepare(state.plan, windows, state.checkpoint.spec.hidden);
  GradientReducer update(state.matrices, state.checkpoint.spec, GradientKind::mean,
                         [&](std::size_t m, const at::Tensor& gradient) {
                           if (const auto& tuned = state.model.tuned()[m])
                             tuned->update(gradient.cpu().const_data_ptr<float>(), rates, state.done);
                         });
  LossTarget target{LossTarget::Kind::kl, state.teach(rows.front(), windows), {}};
  if (target.reference_hidden.defined()) target.reference_head = state.exact.head();
  return state.decoder.loss_and_gradients(windows, target, update).mean;
}

PackedBlobs CodeTuner::blobs() const {
  PackedBlobs blobs(state_->matrices.size());
  for (std::size_t m = 0; m < blobs.size(); ++m)
    if (const auto& tuned = state_->model.tuned()[m]) blobs[m] = tuned->packed();
  return blobs;
}

void CodeTuner::save(const std::filesystem::path& path, const Json& provenance, const Json& note) const {
  SafetensorsWriter writer;
  writer.set_metadata(
      kMetadataKey,
      Json{{"provenance", provenance}, {"note", note}, {"done", state_->done}, {"steps", steps()}}.dump());
  std::vector<std::span<const std::byte>> payloads;
  state_->each_tensor([&](std::string name, std::string_view dtype, std::span<std::byte> bytes) {
    const auto size = static_cast<std::int64_t>(bytes.size());
    writer.add(std::move(name), dtype, {size * 8 / safetensors_dtype_bits(dtype)}, bytes.size());
    payloads.push_back(bytes);
  });
  writer.write_sealed(path, payloads);
}

Json CodeTuner::load(const std::filesystem::path& path, const Json& provenance) {
  const SafetensorsFile file = SafetensorsFile::open_sealed(path);
  const std::string where = path.string();
  const auto metadata = file.metadata().find(kMetadataKey);
  if (metadata == file.metadata().end()) fail_input("{}: not the state of a tuning", where);
  const Json json = parse_json(metadata->second, where);
  if (json_value<Json>(json, "provenance", where) != provenance)
    fail_input("{}: this tuning was made with another model, calibration set, recipe or plan; delete it", where);
  state_->each_tensor([&](const std::string& name, std::string_view dtype, std::span<std::byte> bytes) {
    const SafetensorsEntry& entry = file.entry(name);
    if (entry.dtype != dtype || entry.bytes.size() != bytes.size())
      fail_input("{}: tensor {}: wanted {} bytes of {}, found {} of {}", where, name, bytes.size(), dtype,
                 entry.bytes.size(), entry.dtype);
    std::ranges::copy(entry.bytes, bytes.begin());
  });
  state_->options.steps = json_value<int>(json, "steps", where);
  state_->done = json_value<int>(json, "done", where);
  if (state_->done < 0 || state_->done > state_->options.steps)
    fail_input("{}: wanted at most {} steps done, found {}", where, state_->options.steps, state_->done);
  return json_value<Json>(json, "note", where);
}

}  // namespace scalebits
