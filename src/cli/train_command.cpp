// `scalebits train`: a configuration and text in, a trained model out, in low precision where a scheme says so.
#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/repeated_option.h"
#include "cli/settings.h"
#include "cli/termination.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/units.h"
#include "train/trainer.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

namespace scalebits::cli {
namespace {

struct TrainArguments {
  std::string config, output, check, device = "cpu";
  std::vector<std::string> data, settings;
  int threads = 0, check_batches = 4;
  bool quiet = false;
};

TrainConfig config_of(const TrainArguments& arguments) {
  TrainConfig config = train_config_from_json(read_json_file(arguments.config), {}, arguments.config);
  config = with_settings(std::move(config), arguments.settings, "", train_config_from_json);
  require_valid(config, arguments.settings.empty() ? arguments.config : arguments.config + " with --set");
  return config;
}

/// Another process of the job has gone while this one computes: the last checkpoint is all there is to keep.
void end_for_lost_process(const std::string& message) {
  fmt::print(stderr, "scalebits: {}; the same command goes on from the last checkpoint\n", message);
  std::_Exit(static_cast<int>(ErrorKind::lost_process));
}

void train_model(const TrainArguments& arguments) {
  if (arguments.threads > 0) set_thread_count(arguments.threads);
  const ComputeDevice device = compute_device_from_name(arguments.device);
  open_compute_device(device);
  ProcessGroup group = ProcessGroup::from_environment(end_for_lost_process);
  const TrainJob job{.config = config_of(arguments),
                     .data = {arguments.data.begin(), arguments.data.end()},
                     .output = arguments.output,
                     .group = &group,
                     .device = device};
  save_at_termination();
  const bool tells = group.is_first();
  if (!arguments.check.empty()) {
    std::vector<std::filesystem::path> inputs(arguments.data.begin(), arguments.data.end());
    inputs.push_back(arguments.config);
    check_output(arguments.check, inputs);
  }
  if (!arguments.check.empty()) {
    Json check;
    {
      ProgressLine line(arguments.quiet);
      check = check_divergences(job, arguments.check_batches, std::ref(line));
    }
    write_file_atomically(arguments.check, check.dump(1) + "\n");
    const auto format = check.at("format").get<std::string>();
    for (const auto& [what, fit] : check.at("fit").items())
      fmt::print("{:5} {:20} rank correlation {:6.3f}, R² {:.3f}, slope {:.3f}\n", format, what,
                 fit.at("rank_correlation").get<double>(), fit.at("r_squared").get<double>(),
                 fit.at("slope").get<double>());
    if (check.contains("reliability"))
      for (const auto& [what, value] : check.at("reliability").items())
        fmt::print("{:5} {:20} rank correlation of the measurement with itself {:6.3f}\n", format, what,
                   value.get<double>());
    return;
  }
  TrainReport report;
  try {
    ProgressLine line(arguments.quiet || !tells);
    report = train(job, std::ref(line));
    group.leave();
  } catch (const c10::OutOfMemoryError& error) {
    fail(ErrorKind::unsupported_hardware,
         "the device ran out of memory: {}; a run with more 'micro_batches' takes less of it",
         error.what_without_backtrace());
  } catch (const c10::Error& error) {  // libtorch has no type for host memory that is out
    if (std::string_view(error.what()).find("DefaultCPUAllocator") == std::string_view::npos) throw;
    throw std::bad_alloc();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) group.leave();
    throw;
  }
  if (!tells) return;
  fmt::print(
      "{}: step {}; training loss {:.4f}, validation loss {:.4f} nats/token; {:.1f}% of linear FLOPs in FP4; {:.0f} "
      "tokens/s; {}\n",
      arguments.output, report.steps, report.training_loss, report.validation_loss, 100 * report.fp4_share,
      report.tokens_per_second, format_seconds(report.seconds));
}

}  // namespace

void add_train(CLI::App& app) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* const command =
      app.add_subcommand("train", "Train a model, each linear layer in FP8 or FP4 as a scheme decides (docs/train.md)");
  command->add_option("--config", arguments->config, "JSON file of options")->required()->type_name("FILE");
  command->add_option("--data", arguments->data, "Text files to train on")->required()->type_name("FILE");
  command
      ->add_option("-o,--output", arguments->output,
                   "Folder of the run; one that holds a part of this run is continued")
      ->required()
      ->type_name("FOLDER");
  one_value_each_time(command->add_option("--set", arguments->settings,
                                          "An option over the file's, such as scheme=snip; may be given several times"))
      ->type_name("OPTION=VALUE");
  command->add_option("--threads", arguments->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command
      ->add_option(
          "--device", arguments->device,
          "Where it trains: cpu, or cuda, a card by way of a libtorch with CUDA; cpu-tensors is the card's path "
          "on this processor, for tests [cpu]")
      ->type_name("DEVICE");
  command
      ->add_option(
          "--check-divergences", arguments->check,
          "Train nothing: hold SNIP's predictions against measurement where the run stands, write them as JSON")
      ->type_name("FILE");
  command->add_option("--check-batches", arguments->check_batches, "Batches that divergences are measured on [4]")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  command->add_flag("--quiet", arguments->quiet, "No progress");
  command->callback([arguments] { train_model(*arguments); });
}

}  // namespace scalebits::cli
