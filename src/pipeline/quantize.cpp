#include "pipeline/quantize.h"

#include "checkpoint/read_checkpoint.h"
#include "core/hash.h"
#include "core/mapped_file.h"
#include "graph/memory_budget.h"
#include "pack/pack_model.h"
#include "pipeline/calibration.h"
#include "pipeline/final_rounding.h"
#include "pipeline/search_folder.h"
#include "pipeline/search_state.h"
#include "pipeline/shared_options.h"
#include "pipeline/stored_size.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

namespace scalebits {
namespace {

constexpr std::int64_t kWindowLength = 512;
constexpr double kPartBeforePacking = 0.97;  // of the whole job's time
constexpr double kMostForOwnText = 0.25;     // of a limit

// Of the bar that shows progress, as it is on SmolLM2.
constexpr double kPartForOwnText = 0.15;
constexpr double kPartBeforeRounding = 0.05;  // without a search

/// How much of the time goes to the search, as it does on SmolLM2.
double search_part_of_time(FinalRoundingMethod rounding) {
  switch (rounding) {
    case FinalRoundingMethod::nearest: return kPartBeforePacking;
    case FinalRoundingMethod::gptq: return 0.7;
    case FinalRoundingMethod::tuned: return 0.4;
  }
  throw InternalError("an unknown rounding");
}

/// What the last gradient's scores say each matrix's rounding costs at the final plan.
void set_sensitivity(ArtifactDescription& description, const SearchResult& result) {
  std::map<std::string, float> costs;
  for (std::size_t m = 0; m < result.state.scores.scores.size(); ++m)
    if (result.matrices[m]) {
      double cost = 0;
      for (std::size_t i = 0; i < result.state.plan.widths[m].size(); ++i)
        cost += result.state.scores.scores[m][i][result.state.plan.widths[m][i]];
      costs[result.matrices[m]->name()] = static_cast<float>(cost);
    }
  for (std::size_t i = 0; i < description.sensitivity.size(); ++i)
    description.sensitivity[i] = costs.at(description.matrices[i].name);
}

/// An earlier search's recipe, which its partition and codes belong to, with the budget and the final rounding that are
/// wanted now. Throws Error(usage) where another option was wanted, too, and is not as the search had it.
Recipe with_budget_of(const Recipe& wanted, const std::filesystem::path& frontier, const Json& searched) {
  Recipe recipe = recipe_from_json(searched, {}, frontier.string());
  recipe.budget_bytes = wanted.budget_bytes;
  recipe.bpw = wanted.bpw;
  recipe.allocator = wanted.allocator;
  recipe.rounding = wanted.rounding;
  recipe.feedback = wanted.feedback;
  recipe.feedback_windows = wanted.feedback_windows;
  recipe.tune = wanted.tune;
  const Json given = to_json(recipe), asked = to_json(wanted),
             unasked = to_json(wanted.bpw ? with_rate({}, *wanted.bpw) : Recipe{});
  for (const auto& [option, value] : asked.items())
    if (value != unasked.at(option) && value != given.at(option))
      fail(ErrorKind::usage, "{}: was searched with '{}' {}, and {} is wanted; make another frontier with that",
           frontier.string(), option, given.at(option).dump(), value.dump());
  return recipe;
}

void require_work_for_all(JobProcesses& processes, const Recipe& recipe) {
  const int replicas = processes.replicas().size();
  if (replicas <= recipe.micro_batches) return;
  fail(ErrorKind::usage,
       "{} processes{} share the micro-batches of a gradient, and the recipe has {}: give --set micro_batches={} or a "
       "multiple of it (the plan depends on it, and not on the number of processes)",
       replicas, processes.stages() > 1 ? " of each stage" : "", recipe.micro_batches, replicas);
}

/// The same in all processes, or an Error in all.
CalibrationSet calibration_of(const QuantizeJob& job, const Checkpoint& checkpoint, const SearchFolder& folder,
                              JobProcesses& processes, const ProgressSink& progress) {
  ProcessGroup& group = processes.all();
  group.require_same("model", checkpoint.hash);
  const double seconds = job.time_limit_seconds ? kMostForOwnText * *job.time_limit_seconds : 1e30;
  CalibrationSet set = job.calibration.empty()
                           ? calibration_from_model(checkpoint, job.recipe, part_of(progress, 0, kPartForOwnText),
                                                    processes, seconds, job.device, folder.own_text(), job.resume)
                           : calibration_from_text(checkpoint, job.calibration, job.recipe);
  group.require_same("calibration text", set.hash);
  return set;
}

std::string content_hash(const std::filesystem::path& path) {
  return std::filesystem::exists(path) ? hash_hex(MappedFile::open(path)->bytes()) : "";
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

QuantizeReport quantize_together(const QuantizeJob& requested, const ProgressSink& requested_progress) {
  const auto start = std::chrono::steady_clock::now();
  validate(requested.recipe);
  QuantizeJob job = requested;
  ProcessGroup alone;
  ProcessGroup& group = job.group != nullptr ? *job.group : alone;
  require_same_options(group, job);
  JobProcesses processes(group, job.stages);
  share_memory(group.on_this_host());
  const ProgressSink progress = group.is_first() ? requested_progress : ProgressSink();
  std::optional<SavedSearch> earlier;
  if (!job.frontier.empty()) {
    group.require_same("frontier", content_hash(job.frontier));
    earlier = load_search_state(job.frontier);
    job.recipe = with_budget_of(requested.recipe, job.frontier, earlier->provenance.recipe);
    validate(job.recipe);
  }
  require_work_for_all(processes, job.recipe);
  if (progress) progress({0, "reading", job.model.string()});
  const Checkpoint checkpoint = read_checkpoint(job.model);
  if (earlier)  // before any text is written
    require_same(earlier->provenance,
                 {checkpoint.hash, earlier->provenance.calibration_hash, earlier->provenance.recipe}, job.frontier);
  if (job.recipe.window_length == 0)
    job.recipe.window_length = static_cast<int>(std::min<std::int64_t>(kWindowLength, checkpoint.spec.max_positions));
  require_rules_used(job.recipe, checkpoint.spec, job.model.string());
  if (job.stages > checkpoint.spec.layers)
    fail(ErrorKind::usage, "{}: {} layers cannot be shared out to {} stages", job.model.string(),
         checkpoint.spec.layers, job.stages);
  if (job.stages > 1 && job.recipe.allocator == Allocator::baq)
    fail(ErrorKind::usage, "the allocator {} wants every matrix's codes in each process: not with --stages",
         name_of(job.recipe.allocator));
  if (processes.replica() == 0)  // others have ended by then
    require_memory_for_rounding(checkpoint.spec, job.recipe, processes.pipeline(), processes.stages_here());
  const std::string device_account = account_of(job.device, checkpoint, job.recipe, processes);
  if (progress && !device_account.empty()) progress({-1, "device", device_account});
  StoredSize stored_size(checkpoint, job.recipe), size_before_search(checkpoint, job.recipe);
  const std::uint64_t bytes = budget_bytes(checkpoint.spec, job.recipe);
  const Budget budget{bytes, std::ref(stored_size)};
  // Before the model is run, which may take minutes.
  require_feasible(checkpoint, job.recipe, {bytes, std::ref(size_before_search)});
  const SearchFolder folder(search_folder(job.output), group, progress);
  const std::filesystem::path state_path = folder.state();
  const CalibrationSet calibration = calibration_of(job, checkpoint, folder, processes, progress);
  const Provenance provenance{checkpoint.hash, calibration.hash, to_json(job.recipe)};
  SearchState state;
  group.require_same("saved search", job.resume ? content_hash(state_path) : "");
  const bool goes_on = job.resume && std::filesystem::exists(state_path);
  if (goes_on) {
    SavedSearch saved = load_search_state(state_path);
    require_same(saved.provenance, provenance, state_path);
    state = std::move(saved.state);
  }
  if (earlier) {
    require_same({earlier->provenance.checkpoint_hash, calibration.hash, provenance.recipe}, provenance, job.frontier);
    state = std::move(earlier->state);
  }
  SearchCallbacks callbacks;
  callbacks.save_state = [&](const SearchState& current) {
    if (!goes_on) folder.remove_tunings();  // of the search whose state is replaced
    save_search_state(state_path, current, provenance);
  };
  const double search_share = search_part_of_time(job.recipe.rounding);
  if (job.time_limit_seconds)  // the first one's clock: all must come to the same decisions
    callbacks.seconds_left = group.from_first(search_share * (*job.time_limit_seconds - seconds_since(start)));
  const double own_text = job.calibration.empty() ? kPartForOwnText : 0;
  const double searched = earlier ? std::max(own_text, kPartBeforeRounding) : own_text + (1 - own_text) * search_share;
  callbacks.progress = part_of(progress, own_text, searched);
  callbacks.processes = &processes;
  callbacks.device = job.device;
  const SearchResult result =
      earlier ? plan_from_frontier(checkpoint, calibration, job.recipe, budget, std::move(state), callbacks)
              : run_search(checkpoint, calibration, job.recipe, budget, std::move(state), callbacks);
  if (processes.replica() != 0) return {};
  share_memory(processes.stages_here());
  if (group.is_first() && !job.save_frontier.empty()) save_search_state(job.save_frontier, result.state, provenance);

  ArtifactDescription description =
      describe_artifact(checkpoint, result.state.partition, result.matrices, to_json(job.recipe));
  reserve_sensitivity(description, job.recipe);
  set_sensitivity(description, result);
  set_widths(description, result.matrices, result.state.plan);
  const ArtifactSizes sizes = artifact_sizes(description);
  if ((job.recipe.bpw ? sizes.linear_bytes : sizes.file()) > budget.bytes)
    throw InternalError("the plan that the search ended with does not meet the budget");
  FinalRoundingJob rounding_job{checkpoint, calibration, job.recipe, result, provenance, folder.path(), job.resume};
  rounding_job.device = job.device;
  rounding_job.processes = &processes;
  if (job.time_limit_seconds)
    rounding_job.seconds_left = kPartBeforePacking * *job.time_limit_seconds - seconds_since(start);
  const FinalRounding rounding = final_rounding(rounding_job, part_of(progress, searched, kPartBeforePacking));
  if (!group.is_first()) return {};
  write_packed_model(job.output, description, checkpoint, result.state.partition, result.matrices,
                     [&](std::size_t i, std::span<std::byte> blob) {
                       if (progress) progress({kPartBeforePacking, "packing", result.matrices[i]->name()});
                       pack_refined(result.matrices, result.state.plan, rounding.blobs, i, blob);
                     });
  folder.remove_all();
  return {sizes, result.state.log, rounding.validation_loss, seconds_since(start)};
}

}  // namespace

std::filesystem::path search_folder(const std::filesystem::path& output) { return output.string() + ".search"; }

QuantizeReport quantize(const QuantizeJob& job, const ProgressSink& progress) {
  try {
    return quantize_together(job, progress);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::lost_process) throw;
    fail(ErrorKind::lost_process, "{}; --resume goes on from what the search has saved", error.what());
  }
}

}  // namespace scalebits
