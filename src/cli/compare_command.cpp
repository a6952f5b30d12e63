// `scalebits compare`: allocators and roundings side by side on one model, as a table.
#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/recipe_arguments.h"
#include "cli/repeated_option.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/parallel.h"
#include "pipeline/compare.h"
#include "pipeline/comparison_report.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct CompareOptions {
  std::string model, folder, text, recipe, output, zero_shot;
  std::vector<std::string> calibration, peers, settings;
  std::vector<std::string> allocators = {"scalebits", "exact",     "per-tensor", "fisher-quantile",
                                         "baq",       "baq-layer", "uniform"};
  std::vector<std::string> roundings = {"nearest", "gptq", "tuned"};
  std::vector<double> rates;
  WindowOptions windows{.context = 0};
  std::int64_t zero_shot_limit = 0;
  int threads = 0;
  bool quiet = false;
};

/// Tables do not replace what is read or kept.
void require_own_outputs(const CompareOptions& options, const CompareJob& job) {
  std::filesystem::create_directories(job.folder);  // where the tables may go, too
  std::vector<std::filesystem::path> inputs = {job.model, job.text, options.recipe, job.zero_shot};
  inputs.insert(inputs.end(), job.calibration.begin(), job.calibration.end());
  inputs.insert(inputs.end(), job.peers.begin(), job.peers.end());
  for (const char* const ending : {".json", ".md", ".svg"}) {
    const std::filesystem::path output = options.output + ending;
    check_output(output, inputs);
    for (const std::filesystem::path& kept : kept_files(job))
      if (std::filesystem::weakly_canonical(output) == std::filesystem::weakly_canonical(kept))
        fail(ErrorKind::usage, "{}: keeps figures of this command; write to another place", output.string());
  }
}

void compare_allocators(const CompareOptions& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  CompareJob job{.model = options.model,
                 .folder = options.folder,
                 .text = options.text,
                 .windows = options.windows,
                 .rates = options.rates,
                 .zero_shot = options.zero_shot,
                 .zero_shot_limit = options.zero_shot_limit};
  job.recipe = with_settings(recipe_of_file(options.recipe), options.settings);
  job.calibration.assign(options.calibration.begin(), options.calibration.end());
  job.peers.assign(options.peers.begin(), options.peers.end());
  for (const std::string& name : options.allocators) job.allocators.push_back(allocator_from_name(name));
  for (const std::string& name : options.roundings) job.roundings.push_back(rounding_from_name(name));
  if (!options.output.empty()) require_own_outputs(options, job);
  Json rows;
  {
    ProgressLine line(options.quiet);
    rows = compare(job, std::ref(line));
  }
  std::string table = comparison_table(rows);
  if (const std::string peers = peer_table(rows); !peers.empty()) table += "\n" + peers;
  fmt::print("{}", table);
  if (options.output.empty()) return;
  write_file_atomically(options.output + ".json", Json{{"rows", rows}, {"recipe", to_json(job.recipe)}}.dump(1) + "\n");
  write_file_atomically(options.output + ".md", table);
  write_file_atomically(options.output + ".svg", svg_of(comparison_plot(rows)));
}

}  // namespace

void add_compare(CLI::App& app) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* const command = app.add_subcommand("compare", "Measure allocators and roundings side by side");
  command->add_option("MODEL", options->model, "Hugging Face folder or GGUF file")->required();
  command->add_option("--folder", options->folder, "Keeps every measurement; the same command goes on where it stopped")
      ->required()
      ->type_name("FOLDER");
  command->add_option("--rates", options->rates, "Stored bits per weight of the linear layers, everything counted")
      ->required()
      ->delimiter(',')
      ->check(CLI::Range(0.1, 16.0))
      ->type_name("BPW,…");
  command->add_option("--text", options->text, "The text to predict (UTF-8)")->required()->type_name("FILE");
  command->add_option("--calibration", options->calibration, "As for quantize")->type_name("FILE");
  command->add_option("--allocators", options->allocators, "Names, see docs/recipe.md [all]")
      ->delimiter(',')
      ->type_name("NAME,…");
  command->add_option("--roundings", options->roundings, "nearest, gptq, tuned [all]")
      ->delimiter(',')
      ->type_name("NAME,…");
  command->add_option("--peers", options->peers, "JSON files with rows measured elsewhere on the same windows")
      ->type_name("FILE");
  CLI::Option* const zero_shot =
      command->add_option("--zeroshot", options->zero_shot, "Also ask the questions in this folder, as `zeroshot` does")
          ->type_name("FOLDER");
  command
      ->add_option("--zeroshot-limit", options->zero_shot_limit,
                   "Ask N questions of each task, the same ones every time [all]")
      ->needs(zero_shot)
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command->add_option("--context", options->windows.context, "Tokens of a window [1024, or the model's positions]")
      ->check(CLI::Range(2, 1 << 20))
      ->type_name("N");
  command->add_option("--windows", options->windows.max_windows, "Use the first N windows only [all]")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command->add_option("--recipe", options->recipe, "JSON file of options")->type_name("FILE");
  one_value_each_time(command->add_option("--set", options->settings,
                                          "Any option of the recipe (see docs/recipe.md); may be given several times"))
      ->type_name("OPTION=VALUE");
  command->add_option("-o,--output", options->output, "Write NAME.json, NAME.md and a picture, NAME.svg")
      ->type_name("NAME");
  command->add_option("--threads", options->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_flag("--quiet", options->quiet, "No progress");
  command->callback([options] { compare_allocators(*options); });
}

}  // namespace scalebits::cli
