#include "pipeline/compare.h"

#include "checkpoint/read_checkpoint.h"
#include "core/atomic_file.h"
#include "core/mapped_file.h"
#include "core/process_memory.h"
#include "evaluate/kl.h"
#include "evaluate/zero_shot.h"
#include "pipeline/quantize.h"
#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <cmath>

namespace scalebits {
namespace {

namespace fs = std::filesystem;

class Grid {
 public:
  Grid(const CompareJob& job, const ProgressSink& progress) : job_(job), progress_(progress) {
    fs::create_directories(job.folder);
    require_same_job();
  }

  Json run() {
    Json rows = Json::array(), peers = peer_rows();  // read before hours are spent
    for (const double rate : job_.rates)
      for (const FinalRoundingMethod rounding : job_.roundings)
        for (const Allocator allocator : job_.allocators) rows.push_back(cell(allocator, rounding, rate));
    for (const Json& row : peers) rows.push_back(row);
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

  /// Cells of another job would be taken for this one's.
  void require_same_job() const {
    Json wanted = {{"model", read_checkpoint(job_.model).hash},
                   {"text", job_.text.string()},
                   {"context", job_.windows.context},
                   {"windows", job_.windows.max_windows},
                   {"recipe", to_json(job_.recipe)}};
    for (const fs::path& path : job_.calibration) wanted["calibration"].push_back(path.string());
    const fs::path path = job_.folder / "job.json";
    if (!fs::exists(path)) return write_file_atomically(path, wanted.dump(1));
    const Json found = read_json_file(path);
    for (const auto& [key, value] : wanted.items())
      if (!found.contains(key) || found[key] != value)
        fail_input("{}: holds measurements with another '{}'; give another folder", job_.folder.string(), key);
  }

  /// One descent, from above the highest rate to the lowest.
  fs::path frontier() {
    const fs::path path = job_.folder / "frontier.safetensors";
    if (fs::exists(path)) return path;
    QuantizeJob search = quantize_job(*std::min_element(job_.rates.begin(), job_.rates.end()));
    search.output = job_.folder / "descent.safetensors";
    search.recipe = from_above_all_rates(std::move(search.recipe));
    search.recipe.rounding = FinalRoundingMethod::nearest;
    search.save_frontier = path;
    quantize(search, progress_);
    fs::remove(search.output);
    return path;
  }

  QuantizeJob quantize_job(double rate) const {
    return {
        .model = job_.model, .calibration = job_.calibration, .recipe = with_rate(job_.recipe, rate), .resume = true};
  }

  Recipe from_above_all_rates(Recipe recipe) const {
    const double highest = *std::max_element(job_.rates.begin(), job_.rates.end());
    recipe.start_bits = std::min(8, static_cast<int>(std::ceil(highest)) + 1);
    recipe.swap_steps = 0;
    return recipe;
  }

  Json cell(Allocator allocator, FinalRoundingMethod rounding, double rate) {
    const std::string name = fmt::format("{}-{}-{}", name_of(allocator), name_of(rounding), rate);
    const fs::path path = job_.folder / (name + ".json");
    if (fs::exists(path))
      if (Json row = read_json_file(path); has_wanted_questions(row)) return row;
    if (progress_) progress_({-1, "cell", name});
    QuantizeJob job = quantize_job(rate);
    job.output = job_.folder / (name + ".safetensors");
    job.recipe.allocator = allocator;
    job.recipe.rounding = rounding;
    QuantizeReport report;
    if (allocator == Allocator::uniform || allocator == Allocator::per_tensor) {
      report = in_better_order(job);
    } else {
      job.frontier = frontier();
      job.recipe = from_above_all_rates(std::move(job.recipe));
      reset_peak_memory();
      report = quantize(job, progress_);
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
    write_file_atomically(path, row.dump(1));
    fs::remove(job.output);
    return row;
  }

  bool has_wanted_questions(const Json& row) const {
    if (job_.zero_shot.empty()) return true;
    if (!row.contains("zero_shot")) return false;
    const Json& asked = row["zero_shot"];
    return asked.value("limit", std::int64_t{-1}) == job_.zero_shot_limit &&
           asked.value("data", job_.zero_shot.string()) == job_.zero_shot.string();
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
    if (!reference_) {
      reference_ = RuntimeModel::open(job_.model, {.activations = ActivationFormat::f32});
      const auto text = MappedFile::open(job_.text);
      const std::string_view characters(reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size());
      WindowOptions named = job_.windows;
      named.text = job_.text.string();
      windows_ = cut_windows(model->require_tokenizer().encode(characters, {.parse_special = false}), named);
    }
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
    std::vector<TaskSample> samples;
    for (const Task& task : zero_shot_tasks())
      samples.push_back({task, sample_items(read_task(task, job_.zero_shot), job_.zero_shot_limit)});
    const bool bos = model.require_tokenizer().adds_bos_by_default();
    const std::vector<TaskResult> results = measure_zero_shot(model, samples, {.bos = bos}, progress_);
    Json report = to_json(std::span<const TaskResult>(results), job_.zero_shot_limit);
    report["data"] = job_.zero_shot.string();
    return report;
  }

  const CompareJob& job_;
  const ProgressSink& progress_;
  std::shared_ptr<RuntimeModel> reference_;
  TextWindows windows_;
};

}  // namespace

Json compare(const CompareJob& job, const ProgressSink& progress) { return Grid(job, progress).run(); }

}  // namespace scalebits
