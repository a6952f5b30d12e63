// `scalebits plan`: what a saved search gives at other sizes, in seconds and without packing.
#include "cli/commands.h"
#include "cli/progress_line.h"

#include "core/atomic_file.h"
#include "core/json_text.h"
#include "core/parallel.h"
#include "core/units.h"
#include "pipeline/plan.h"

#include <fmt/format.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct PlanOptions {
  std::string model, frontier, json;
  std::vector<std::string> budgets, allocators = {"scalebits"};
  std::vector<double> rates;
  int threads = 0;
  bool quiet = false;
};

void print(const FrontierPlans& found) {
  fmt::print("the descent passed{:>12}{:>12}{:>11}   loss of its calibration batch\n", "file", "linear bpw",
             "code bits");
  for (const PassedPoint& point : found.passed)
    fmt::print("{:>30}{:>12.4f}{:>11.3f}   {:.4f}\n", format_bytes(point.sizes.file()), point.sizes.linear_bpw(),
               point.sizes.code_bits(), point.loss);
  fmt::print("\n{:<18}{:>12}{:>12}{:>11}{:>13}   weights of each width 0 … 8, %\n", "plans", "file", "linear bpw",
             "code bits", "cost/least");
  for (const PlannedSize& plan : found.plans) {
    const auto all = static_cast<double>(std::accumulate(plan.weights.begin(), plan.weights.end(), std::uint64_t{0}));
    std::string shares;
    for (const std::uint64_t weights : plan.weights)
      shares += weights == 0 ? "    ·" : fmt::format("{:5.1f}", 100 * static_cast<double>(weights) / all);
    fmt::print("{:<18}{:>12}{:>12.4f}{:>11.3f}{:>13.4f}  {}\n", name_of(plan.allocator),
               format_bytes(plan.sizes.file()), plan.sizes.linear_bpw(), plan.sizes.code_bits(),
               plan.cost / plan.least_cost, shares);
  }
  fmt::print("\ncost/least: by the scores saved nearest above, over what no plan of as many bytes can go below\n");
}

void plan(const PlanOptions& options) {
  if (options.threads > 0) set_thread_count(options.threads);
  if (!options.json.empty()) check_output(options.json, {options.model, options.frontier});
  PlanJob job{.model = options.model, .frontier = options.frontier, .rates = options.rates};
  for (const std::string& budget : options.budgets) job.budgets.push_back(parse_bytes(budget));
  for (const std::string& name : options.allocators) job.allocators.push_back(allocator_from_name(name));
  if (job.rates.empty() && job.budgets.empty())
    fail(ErrorKind::usage, "give sizes: --bpw 2.5,3 or --budget 50MiB,60MiB");
  FrontierPlans plans;
  {
    ProgressLine line(options.quiet);
    plans = plan_sizes(job, std::ref(line));
  }
  print(plans);
  if (options.json.empty()) return;
  Json report = to_json(plans);
  report["model"] = options.model;
  write_file_atomically(options.json, json_text(report, 1) + "\n");
}

}  // namespace

void add_plan(CLI::App& app) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* const command =
      app.add_subcommand("plan", "What a kept search gives at other sizes, in seconds; `quantize --frontier` packs it");
  command->add_option("MODEL", options->model, "The model that was searched")->required();
  command->add_option("--frontier", options->frontier, "What `quantize --save-frontier` kept")
      ->required()
      ->type_name("FILE");
  command->add_option("--bpw", options->rates, "Stored bits per weight of the linear layers, everything counted")
      ->delimiter(',')
      ->check(CLI::Range(0.1, 16.0))
      ->type_name("RATE,…");
  command->add_option("--budget", options->budgets, "Sizes of the whole file, such as 60MiB")
      ->delimiter(',')
      ->type_name("SIZE,…");
  command->add_option("--allocators", options->allocators, "Names, see docs/recipe.md [scalebits]")
      ->delimiter(',')
      ->type_name("NAME,…");
  command->add_option("--json", options->json, "Write the plans' figures as JSON")->type_name("FILE");
  command->add_option("--threads", options->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_flag("--quiet", options->quiet, "No progress");
  command->callback([options] { plan(*options); });
}

}  // namespace scalebits::cli
