#include "pipeline/compare.h"

#include "checkpoint/read_checkpoint.h"
#include "core/atomic_file.h"
#include "core/hash.h"
#include "core/json_text.h"
#include "core/mapped_file.h"
#include "core/process_memory.h"
#include "evaluate/kl.h"
#include "evaluate/zero_shot.h"
#include "partition/partition.h"
#include "pipeline/plan_budget.h"
#include "pipeline/quantize.h"
#include "pipeline/search_passes.h"
#include "pipeline/search_state.h"
#include "pipeline/stored_size.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

std::string cell_name(Allocator allocator, FinalRoundingMethod rounding, double rate) {
  return fmt::format("{}-{}-{}", name_of(allocator), name_of(rounding), rate);
}

bool needs_descent(Allocator allocator) {
  return allocator != Allocator::uniform && allocator != Allocator::per_tensor;
}

fs::path job_file(const CompareJob& job) { return job.folder / "job.json"; }
fs::path frontier_file(const CompareJob& job) { return job.folder / "frontier.safetensors"; }
fs::path cell_file(const CompareJob& job, const std::string& name) { return job.folder / (name + ".json"); }

/// What a folder's content was made with. Files are told by their content; their paths are kept for people.
class KeptJob {
 public:
  KeptJob(fs::path path, Json made_with, Json paths)
      : path_(std::move(path)), made_with_(std::move(made_with)), paths_(std::move(paths)) {
    if (fs::exists(path_)) kept_ = read_json_file(path_);
  }

  /// What would be made now would be taken for the same as what is there. What nothing depends on yet may differ.
  void require_same() const {
    if (kept_.empty()) return;
    const std::string folder = path_.parent_path().string();
    if (!kept_.contains("paths"))
      fail_input(
          "{}: an earlier version made this folder, which did not keep what text and calibration held; give another "
          "folder",
          folder);
    for (const auto& [key, wanted] : made_with_.items())
      if (kept_.contains(key) && kept_[key] != wanted)
        fail_input("{}: what this folder holds was made with another {}; give another folder", folder,
                   difference(key, kept_[key], wanted));
  }

  /// To be called before something is kept that depends on these.
  void add(std::initializer_list<const char*> keys) {
    const Json before = kept_;
    for (const char* const key : keys) {
      kept_[key] = made_with_.at(key);
      if (paths_.contains(key)) kept_["paths"][key] = paths_[key];
    }
    if (kept_ != before) write_file_atomically(path_, json_text(kept_, 1));
  }

 private:
  std::string difference(const std::string& key, const Json& found, const Json& wanted) const {
    if (paths_.contains(key)) {
      const auto path_of = [&](const Json& paths) { return json_value<std::string>(paths, key, path_.string()); };
      const std::string before = path_of(kept_["paths"]), now = path_of(paths_);
      return before == now ? fmt::format("{}: {} has changed since", key, now)
                           : fmt::format("{}: {}, not {}", key, before, now);
    }
    if (!wanted.is_object()) return fmt::format("{}: {}, not {}", key, found.dump(), wanted.dump());
    for (const auto& [option, value] : wanted.items())
      if (!found.contains(option) || found[option] != value)
        return fmt::format("{}: '{}' {}, not {}", key, option,
                           found.contains(option) ? found[option].dump() : "unknown", value.dump());
    return key;
  }

  fs::path path_;
  Json made_with_, paths_, kept_;
};

class Grid {
 public:
  Grid(const CompareJob& job, const ProgressSink& progress) : job_(job), progress_(progress) {
    peers_ = peer_rows();
    const Checkpoint checkpoint = read_checkpoint(job.model);
    for (const double rate : job.rates)
      for (const FinalRoundingMethod rounding : job.roundings)
        for (const Allocator allocator : job.allocators) validate(cell_recipe(allocator, rounding, rate));
    require_rules_used(job.recipe, checkpoint.spec, job.model.string());
    Json made_with = {{"model", checkpoint.hash}, {"calibration", Json::array()}, {"recipe", to_json(job.recipe)}};
    std::string calibration;
    for (const fs::path& path : job.calibration) {
      made_with["calibration"].push_back(hash_hex(MappedFile::open(path)->bytes()));
      calibration += (calibration.empty() ? "" : ", ") + path.string();
    }
    made_with["text"] = cut_text(checkpoint);
    made_with["context"] = windows_.context;
    made_with["windows"] = windows_.count();
    if (!job.zero_shot.empty()) read_tasks();
    kept_job_.emplace(job_file(job), std::move(made_with),
                      Json{{"model", job.model.string()},
                           {"calibration", calibration.empty() ? "the model's own text" : calibration},
                           {"text", job.text.string()}});
    kept_job_->require_same();
    if (!is_complete()) require_feasible_rates(checkpoint);
    fs::create_directories(job.folder);
  }

  Json run() {
    Json rows = Json::array();
    for (const double rate : job_.rates)
      for (const FinalRoundingMethod rounding : job_.roundings)
        for (const Allocator allocator : job_.allocators) rows.push_back(cell(allocator, rounding, rate));
    for (const Json& row : peers_) rows.push_back(row);
    return rows;
  }

 private:
  /// Throws Error(bad_input) naming the file and the key when a row lacks what the tables show.
  Json peer_rows() const {
    Json rows = Json::array();
    for (const fs::path& path : job_.peers)
      for (const Json& row : json_value<Json>(read_json_file(path), "rows", path.string())) {
        for (const char* key : {"allocator", "rounding"}) json_value<std::string>(row, key, path.string());
        for (const char* key : {"linear_bpw", "perplexity", "perplexity_error", "kl", "kl_p99", "top1"})
          json_value<double>(row, key, path.string());
        if (row.contains("rate")) json_value<double>(row, "held_out_loss", path.string());
        rows.push_back(row);
      }
    return rows;
  }

  /// Fills windows_; returns the text's hash.
  std::string cut_text(const Checkpoint& checkpoint) {
    if (!checkpoint.tokenizer) fail_input("{}: has no tokenizer, so text cannot be predicted", checkpoint.source);
    const auto text = MappedFile::open(job_.text);
    const std::string_view characters = text->text();
    const std::int64_t positions = checkpoint.spec.max_positions;
    WindowOptions named = job_.windows;
    named.text = job_.text.string();
    if (named.context == 0) named.context = std::min(kUsualContext, positions);
    if (named.context > positions)
      fail_input("{}: has {} positions, and windows of {} tokens are wanted", job_.model.string(), positions,
                 named.context);
    windows_ = cut_windows(checkpoint.tokenizer->encode(characters, {.parse_special = false}), named);
    return hash_hex(text->bytes());
  }

  void read_tasks() {
    Hasher hasher;
    for (const Task& task : zero_shot_tasks()) {
      samples_.push_back({task, sample_items(read_task(task, job_.zero_shot), job_.zero_shot_limit)});
      hasher.update(hash_hex(MappedFile::open(job_.zero_shot / task.file)->bytes()));
    }
    tasks_hash_ = hasher.hex();
  }

  bool is_complete() const {
    for (const double rate : job_.rates)
      for (const FinalRoundingMethod rounding : job_.roundings)
        for (const Allocator allocator : job_.allocators)
          if (!kept_cell(cell_name(allocator, rounding, rate))) return false;
    return true;
  }

  double lowest_rate() const { return *std::min_element(job_.rates.begin(), job_.rates.end()); }
  double highest_rate() const { return *std::max_element(job_.rates.begin(), job_.rates.end()); }
  /// Of a descent: a uniform width above all rates.
  int start_bits() const { return std::min(8, static_cast<int>(std::ceil(highest_rate())) + 1); }

  /// Throws Error(infeasible_budget) for a rate below the smallest plan, or above what a descent can begin with.
  void require_feasible_rates(const Checkpoint& checkpoint) const {
    Recipe recipe = with_rate(job_.recipe, lowest_rate());
    StoredSize stored_size(checkpoint, recipe);
    require_feasible(checkpoint, recipe, {budget_bytes(checkpoint.spec, recipe), std::ref(stored_size)});
    if (std::none_of(job_.allocators.begin(), job_.allocators.end(), needs_descent)) return;
    recipe = with_rate(job_.recipe, highest_rate());
    recipe.groups.code_widths = 0;
    SearchState state;
    state.partition = identity_partition(checkpoint.spec, rounds_vocabulary(recipe));
    if (recipe.reordering != Reordering::none)  // any order takes as many bytes as the one that will be found
      state.partition =
          reorder(checkpoint.spec, state.partition, no_channel_scores(state.partition), recipe.reordering);
    const RoundedMatrices matrices = round_matrices(checkpoint, state.partition, {}, recipe);
    StoredSize largest_size(checkpoint, recipe);
    const Budget budget{budget_bytes(checkpoint.spec, recipe), std::ref(largest_size)};
    const PlanBudget plans(recipe, budget, state, matrices);
    const auto stored = static_cast<double>(plans.stored_bytes(plans.uniform(start_bits())));
    if (stored <= static_cast<double>(budget.bytes))
      fail(ErrorKind::infeasible_budget,
           "{:g} bpw is more than a descent can begin with: {:.3f} at {} bits under this recipe", highest_rate(),
           highest_rate() / static_cast<double>(budget.bytes) * stored, start_bits());
  }

  /// The recipe of a descent from above the highest rate to the lowest, and where it lies. A kept one that does not
  /// reach as far gives way to one of its rates and these.
  const Recipe& descent() {
    if (descent_) return *descent_;
    const fs::path path = frontier_file(job_);
    QuantizeJob search = quantize_job(lowest_rate());
    search.recipe.start_bits = start_bits();
    if (fs::exists(path)) {
      const Recipe kept = recipe_from_json(load_search_state(path).provenance.recipe, {}, path.string());
      const double kept_rate = kept.bpw.value_or(INFINITY);
      if (kept.start_bits >= start_bits() && kept_rate <= lowest_rate()) return descent_.emplace(kept);
      search.recipe.start_bits = std::max(start_bits(), kept.start_bits);
      search.recipe.bpw = std::min(lowest_rate(), kept_rate);
      if (progress_)
        progress_({-1, "descent",
                   fmt::format("a new one, from {} bits to {:g} bpw: the kept one goes from {} to {:g}",
                               search.recipe.start_bits, *search.recipe.bpw, kept.start_bits, kept_rate)});
    }
    search.recipe.swap_steps = 0;
    search.recipe.rounding = FinalRoundingMethod::nearest;
    search.output = job_.folder / fmt::format("descent{}.safetensors", reach_of(search.recipe));
    search.save_frontier = path;
    quantize(search, progress_);
    fs::remove(search.output);
    kept_job_->add({"model", "calibration", "recipe"});
    return descent_.emplace(search.recipe);
  }

  /// As a part of the names of what another descent must not go on from.
  static std::string reach_of(const Recipe& descent) {
    return fmt::format("-from-{}-to-{}", descent.start_bits, *descent.bpw);
  }

  Recipe cell_recipe(Allocator allocator, FinalRoundingMethod rounding, double rate) const {
    Recipe recipe = with_rate(job_.recipe, rate);
    recipe.allocator = allocator;
    recipe.rounding = rounding;
    return recipe;
  }

  QuantizeJob quantize_job(double rate) const {
    return {
        .model = job_.model, .calibration = job_.calibration, .recipe = with_rate(job_.recipe, rate), .resume = true};
  }

  Json cell(Allocator allocator, FinalRoundingMethod rounding, double rate) {
    const std::string name = cell_name(allocator, rounding, rate);
    if (std::optional<Json> row = kept_cell(name)) return *std::move(row);
    if (progress_) progress_({-1, "cell", name});
    QuantizeJob job = quantize_job(rate);
    job.output = job_.folder / (name + ".safetensors");
    job.recipe = cell_recipe(allocator, rounding, rate);
    QuantizeReport report;
    if (needs_descent(allocator)) {
      const Recipe& from = descent();
      job.output = job_.folder / fmt::format("{}{}.safetensors", name, reach_of(from));
      job.frontier = frontier_file(job_);
      job.recipe.start_bits = from.start_bits;
      job.recipe.swap_steps = from.swap_steps;
      reset_peak_memory();
      report = quantize(job, progress_);
    } else {
      report = in_better_order(job);
    }
    Json row = {{"allocator", name_of(allocator)},
                {"rounding", name_of(rounding)},
                {"rate", rate},
                {"linear_bpw", report.sizes.linear_bpw()},
                {"code_bits", report.sizes.code_bits()},
                {"file_bytes", report.sizes.file()},
                {"held_out_loss", report.validation_loss},
                {"seconds", report.seconds},
                {"peak_bytes", peak_memory_bytes()}};
    row.update(measured(job.output));
    kept_job_->add({"model", "calibration", "recipe", "text", "context", "windows"});
    write_file_atomically(cell_file(job_, name), row.dump(1));
    fs::remove(job.output);
    return row;
  }

  /// None when it is still to be measured, or lacks the questions that are wanted.
  std::optional<Json> kept_cell(const std::string& name) const {
    const fs::path path = cell_file(job_, name);
    if (!fs::exists(path)) return {};
    Json row = read_json_file(path);
    if (job_.zero_shot.empty()) return row;
    if (!row.contains("zero_shot")) return {};
    const Json& asked = row["zero_shot"];
    const bool same = asked.value("limit", std::int64_t{-1}) == job_.zero_shot_limit &&
                      asked.value("data_hash", std::string()) == tasks_hash_;
    return same ? std::optional(std::move(row)) : std::nullopt;
  }

  /// Orders gather what is alike into blocks; where a whole tensor has one width they may do harm.
  QuantizeReport in_better_order(QuantizeJob job) {
    const fs::path output = job.output;
    job.output += ".reordered";
    const QuantizeReport reordered = quantize(job, progress_);
    job.output = output;
    job.recipe.reordering = Reordering::none;
    reset_peak_memory();
    const QuantizeReport plain = quantize(job, progress_);
    if (reordered.validation_loss < plain.validation_loss) fs::rename(output.string() + ".reordered", output);
    fs::remove(output.string() + ".reordered");
    return reordered.validation_loss < plain.validation_loss ? reordered : plain;
  }

  Json measured(const fs::path& artifact) {
    const auto model = RuntimeModel::open(artifact, {.activations = ActivationFormat::f32});
    if (!reference_) reference_ = RuntimeModel::open(job_.model, {.activations = ActivationFormat::f32});
    const Comparison comparison = compare_models(*model, *reference_, windows_, {}, progress_);
    Json row = {
        {"perplexity", comparison.model.perplexity()},   {"perplexity_error", comparison.model.standard_error()},
        {"window_nll", comparison.model.nll.windows},    {"reference_perplexity", comparison.reference.perplexity()},
        {"kl", comparison.divergence.kl.mean()},         {"kl_error", comparison.divergence.kl.standard_error()},
        {"window_kl", comparison.divergence.kl.windows}, {"kl_p99", comparison.divergence.percentile_99},
        {"top1", comparison.divergence.top1_agreement}};
    if (!job_.zero_shot.empty()) row["zero_shot"] = zero_shot(*model);
    return row;
  }

  Json zero_shot(RuntimeModel& model) const {
    const bool bos = model.require_tokenizer().adds_bos_by_default();
    const std::vector<TaskResult> results = measure_zero_shot(model, samples_, {.bos = bos}, progress_);
    Json report = to_json(std::span<const TaskResult>(results), job_.zero_shot_limit);
    report["data"] = job_.zero_shot.string();
    report["data_hash"] = tasks_hash_;
    return report;
  }

  const CompareJob& job_;
  const ProgressSink& progress_;
  Json peers_;
  TextWindows windows_;
  std::vector<TaskSample> samples_;
  std::string tasks_hash_;
  std::optional<KeptJob> kept_job_;
  std::optional<Recipe> descent_;
  std::shared_ptr<RuntimeModel> reference_;
};

}  // namespace

Json compare(const CompareJob& job, const ProgressSink& progress) { return Grid(job, progress).run(); }

std::vector<fs::path> kept_files(const CompareJob& job) {
  std::vector<fs::path> files = {job_file(job), frontier_file(job)};
  for (const double rate : job.rates)
    for (const FinalRoundingMethod rounding : job.roundings)
      for (const Allocator allocator : job.allocators)
        files.push_back(cell_file(job, cell_name(allocator, rounding, rate)));
  return files;
}

}  // namespace scalebits
