// `scalebits quantize`: a checkpoint and a size in, the best artifact of that size out.
#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/recipe_arguments.h"
#include "cli/repeated_option.h"
#include "cli/termination.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/units.h"
#include "pipeline/quantize.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct QuantizeOptions {
  std::string model, output, budget, recipe, time_limit, report, frontier, save_frontier, device = "cpu", device_memory;
  std::vector<std::string> calibration, keep, settings;
  std::optional<double> bpw;
  int threads = 0;
  bool resume = false, quiet = false, offload = false;
  int stages = 1;
};

KeepRule parse_keep(const std::string& text) {
  const auto equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size() ||
      text.find_first_not_of("0123456789", equals + 1) != std::string::npos || text.size() - equals > 4)
    fail(ErrorKind::usage, "--keep takes PATTERN=BITS such as '*.v_proj.weight=4', found '{}'", text);
  return {text.substr(0, equals), std::stoi(text.substr(equals + 1))};
}

Recipe recipe_of(const QuantizeOptions& options) {
  Recipe recipe = recipe_of_file(options.recipe);
  if (!options.budget.empty()) {
    recipe.budget_bytes = parse_bytes(options.budget);
    recipe.bpw.reset();
  }
  if (options.bpw) recipe = with_rate(std::move(recipe), *options.bpw);
  recipe = with_settings(std::move(recipe), options.settings);
  for (const std::string& rule : options.keep) recipe.keep.push_back(parse_keep(rule));
  return recipe;
}

Json report_json(const QuantizeReport& report) {
  Json steps = Json::array();
  for (const SearchStep& step : report.steps)
    steps.push_back({{"phase", step.phase},
                     {"code_bits", step.code_bits},
                     {"loss", step.loss},
                     {"seconds", step.seconds},
                     {"lowered", step.lowered},
                     {"raised", step.raised},
                     {"accepted", step.accepted}});
  return {{"sizes", to_json(report.sizes)},
          {"validation_loss", report.validation_loss},
          {"seconds", report.seconds},
          {"steps", steps}};
}

/// Another process of the job has gone while this one computes: what is saved is all there is to keep.
void end_for_lost_process(const std::string& message) {
  fmt::print(stderr, "scalebits: {}; --resume goes on from what the search has saved\n", message);
  // Ctrl-C reaches all processes; one that waits for another learns of it so.
  std::_Exit(static_cast<int>(interrupt_requested ? ErrorKind::interrupted : ErrorKind::lost_process));
}

void quantize_model(const QuantizeOptions& options) {
  std::vector<std::filesystem::path> inputs(options.calibration.begin(), options.calibration.end());
  inputs.insert(inputs.end(), {options.model, options.frontier, options.recipe});
  if (options.output.empty()) fail(ErrorKind::usage, "--output: wanted the name of a file, found nothing");
  check_outputs({options.output, options.report, options.save_frontier}, inputs);
  if (options.threads > 0) set_thread_count(options.threads);
  QuantizeJob job{
      .model = options.model, .output = options.output, .recipe = recipe_of(options), .resume = options.resume};
  job.calibration.assign(options.calibration.begin(), options.calibration.end());
  if (!options.time_limit.empty()) job.time_limit_seconds = parse_seconds(options.time_limit);
  job.frontier = options.frontier;
  job.save_frontier = options.save_frontier;
  job.device.kind = compute_device_from_name(options.device);
  job.device.offload = options.offload;
  if (!options.device_memory.empty()) job.device.memory_bytes = parse_bytes(options.device_memory);
  if (job.device.kind == SearchDevice::Kind::cpu && (options.offload || job.device.memory_bytes > 0))
    fail(ErrorKind::usage, "--offload and --gpu-memory need --device cuda");
  open_compute_device(job.device.kind);
  ProcessGroup group = ProcessGroup::from_environment(end_for_lost_process);
  job.group = &group;
  job.stages = options.stages;
  save_at_termination();
  const bool tells = group.is_first();
  if (const auto folder = search_folder(options.output); tells && options.resume && !std::filesystem::exists(folder))
    fmt::print(stderr, "scalebits: nothing is kept in {}: from the beginning\n", folder.string());
  QuantizeReport report;
  try {
    ProgressLine line(options.quiet);
    report = quantize(job, std::ref(line));
    group.leave();
  } catch (const c10::OutOfMemoryError& error) {
    fail(ErrorKind::unsupported_hardware,
         "the device ran out of memory, more of which was free when it was counted: {}; --gpu-memory takes less",
         error.what_without_backtrace());
  } catch (const Error& error) {
    const bool waited = error.kind() == ErrorKind::lost_process && interrupt_requested;
    if (error.kind() != ErrorKind::interrupted && !waited) throw;
    if (!waited) group.leave();
    const auto folder = search_folder(options.output);
    if (!std::filesystem::exists(folder)) fail(ErrorKind::interrupted, "stopped; there was nothing to keep yet");
    fail(ErrorKind::interrupted, "stopped; the search so far is kept in {}; the same command with --resume goes on",
         folder.string());
  }
  if (!tells) return;
  const double over = report.seconds - job.time_limit_seconds.value_or(report.seconds);
  fmt::print(
      "{}: {} bytes ({}); linear layers {:.4f} bpw all-in, {:.3f} code bits; held-out loss {:.4f} nats/token; {}{}\n",
      options.output, report.sizes.file(), format_bytes(report.sizes.file()), report.sizes.linear_bpw(),
      report.sizes.code_bits(), report.validation_loss, format_seconds(report.seconds),
      over > 0 ? fmt::format(", {} over the time limit", format_seconds(over)) : "");
  if (!options.report.empty()) write_file_atomically(options.report, report_json(report).dump(1));
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* const command = app.add_subcommand("quantize", "Fit a model into a number of bytes");
  command->add_option("MODEL", options->model, "Hugging Face folder or GGUF file")->required();
  command->add_option("-o,--output", options->output, "The file to write (safetensors)")->required()->type_name("FILE");
  CLI::Option* const budget =
      command
          ->add_option("--budget", options->budget,
                       "Size of the whole file, such as 60MiB; embedding and head are searched too")
          ->type_name("SIZE");
  command
      ->add_option(
          "--bpw", options->bpw,
          "Stored bits per weight of the linear layers, everything counted; embedding and head stay at 16 bits")
      ->check(CLI::Range(0.1, 16.0))
      ->excludes(budget)
      ->type_name("RATE");
  command
      ->add_option("--calibration", options->calibration,
                   "Text files that are like what the model will be used for; without any the model writes its own")
      ->type_name("FILE");
  command->add_option("--recipe", options->recipe, "JSON file of options; those given here override it")
      ->type_name("FILE");
  one_value_each_time(
      command->add_option(
          "--set", options->settings,
          "Any option of the recipe, such as descent_steps=8 (see docs/recipe.md); may be given several times"))
      ->type_name("OPTION=VALUE");
  one_value_each_time(
      command->add_option(
          "--keep", options->keep,
          "Fix the width of matching tensors: 0 to 8, or 16 for unquantised; may be given several times"))
      ->type_name("PATTERN=BITS");
  command
      ->add_option("--time-limit", options->time_limit,
                   "Read less text, try fewer swaps and tune in fewer steps to end in about this time, such as 30min")
      ->type_name("TIME");
  command
      ->add_option("--save-frontier", options->save_frontier,
                   "Keep the finished search: the plans and scores of every size it passed on its way down")
      ->type_name("FILE");
  command
      ->add_option(
          "--frontier", options->frontier,
          "Take the plan from a kept search of the same model instead of searching, at any size below its start")
      ->type_name("FILE");
  command->add_flag("--resume", options->resume, "Go on with an interrupted search of the same model and recipe");
  command->add_option("--threads", options->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command
      ->add_option(
          "--device", options->device,
          "Where the model runs for all of this: cpu, or cuda, a card by way of a libtorch with CUDA; cpu-tensors is "
          "the card's path on this processor, for tests [cpu]")
      ->type_name("DEVICE");
  command->add_flag("--offload", options->offload, "cuda: keep the weights in host memory, sent layer by layer");
  command
      ->add_option("--gpu-memory", options->device_memory,
                   "cuda: memory of the card to take at most [all that is free]")
      ->type_name("SIZE");
  command
      ->add_option("--stages", options->stages,
                   "Of a job of several processes: share the layers out to so many in a row, for models larger than "
                   "one device [1]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_option("--report", options->report, "Write sizes and the search's steps as JSON")->type_name("FILE");
  command->add_flag("--quiet", options->quiet, "No progress");
  command->footer(
      "Examples:\n"
      "  scalebits quantize MODEL -o small.safetensors --budget 60MiB\n"
      "  scalebits quantize MODEL -o small.safetensors --bpw 3.25 --calibration mine.txt --save-frontier search\n"
      "  scalebits quantize MODEL -o smaller.safetensors --bpw 2.5 --calibration mine.txt --frontier search\n"
      "  scalebits quantize MODEL -o small.safetensors --budget 2GiB --time-limit 1h --set compute=bf16");
  command->callback([options] { quantize_model(*options); });
}

}  // namespace scalebits::cli
