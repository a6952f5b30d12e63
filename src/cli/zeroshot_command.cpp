// `scalebits zeroshot`: how many questions of the customary multiple-choice tasks a model answers right.
#include "cli/commands.h"
#include "cli/progress_line.h"
#include "cli/runtime_arguments.h"
#include "core/atomic_file.h"
#include "core/json_text.h"
#include "core/units.h"
#include "evaluate/answer_comparison.h"
#include "evaluate/zero_shot.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <memory>
#include <optional>

namespace scalebits::cli {
namespace {

struct Arguments {
  std::string model, reference, data, json, items;
  std::vector<std::string> tasks;
  std::int64_t limit = 0;
  std::optional<bool> bos;
  bool quiet = false;
  RuntimeArguments runtime{.runtime = {.activations = ActivationFormat::f32}};
};

std::vector<TaskSample> samples_of(const Arguments& arguments) {
  std::vector<TaskSample> samples;
  const auto add = [&](const Task& task) {
    for (const TaskSample& other : samples)
      if (other.task.name == task.name) fail(ErrorKind::usage, "task '{}' is asked for twice", task.name);
    samples.push_back({task, sample_items(read_task(task, arguments.data), arguments.limit)});
  };
  for (const std::string& name : arguments.tasks) task_named(name);  // all names before the first file
  for (const std::string& name : arguments.tasks) add(task_named(name));
  if (arguments.tasks.empty())
    for (const Task& task : zero_shot_tasks()) add(task);
  return samples;
}

std::string percent(const Accuracy& accuracy) {
  return fmt::format("{:.2f}", 100 * accuracy.mean) +
         (std::isnan(accuracy.standard_error) ? "" : fmt::format(" ± {:.2f}", 100 * accuracy.standard_error));
}

/// `reference`: empty without one.
void print(const std::vector<TaskResult>& results, const std::vector<TaskResult>& reference, double seconds) {
  const bool compares = !reference.empty();
  fmt::print("{:<15}{:>10}  {:<18}{:<18}{:>8}{}\n", "", "questions", "acc, %", "acc_norm, %", "time",
             compares ? "  over the reference  same answer" : "");
  for (std::size_t i = 0; i < results.size(); ++i) {
    const TaskResult& result = results[i];
    const auto cell = [&](Measure measure) {
      return percent(result.accuracy(measure)) + (result.task.customary == measure ? " *" : "");
    };
    fmt::print("{:<15}{:>10}  {:<18}{:<18}{:>8}", result.task.name, result.questions.size(), cell(Measure::acc),
               cell(Measure::acc_norm), format_seconds(result.seconds));
    if (compares) {
      const AnswerComparison beside = compare_answers(result, reference[i]);
      fmt::print("  {:>18}  {:>9.1f} %", percent(beside.difference), 100 * beside.same);
    }
    fmt::print("\n");
  }
  fmt::print("mean over tasks of the customary measure (*): {} %", percent(mean_accuracy(results)));
  if (compares) {
    const AnswerComparison beside = compare_answers(std::span(results), std::span(reference));
    fmt::print("; the reference {} %, apart {} (paired), {:.1f} % of the answers the same",
               percent(mean_accuracy(reference)), percent(beside.difference), 100 * beside.same);
  }
  fmt::print("; {} in all\n", format_seconds(seconds));
}

std::vector<TaskResult> measure(const Arguments& arguments, RuntimeModel& model, bool bos,
                                const std::vector<TaskSample>& samples) {
  ProgressLine line(arguments.quiet);
  return measure_zero_shot(model, samples, {.bos = bos, .kv = arguments.runtime.kv}, std::ref(line));
}

void run(const Arguments& arguments) {
  check_outputs({arguments.json, arguments.items}, {arguments.model, arguments.reference, arguments.data});
  const std::vector<TaskSample> samples = samples_of(arguments);
  require_card_for_positions(arguments.runtime, "zeroshot");
  const auto model = open_model(arguments.model, arguments.runtime);
  const bool bos = arguments.bos.value_or(model->require_tokenizer().adds_bos_by_default());
  const auto require_bos = [&](const std::string& path, RuntimeModel& of) {
    if (bos && !of.require_tokenizer().bos())
      fail(ErrorKind::usage, "{}: --bos was given, but the tokenizer has no such token", path);
  };
  require_bos(arguments.model, *model);
  std::unique_ptr<RuntimeModel> reference;  // opened before hours of work, in case that it can't be
  if (!arguments.reference.empty()) {
    reference = open_model(arguments.reference, arguments.runtime);
    require_bos(arguments.reference, *reference);
  }

  const std::vector<TaskResult> results = measure(arguments, *model, bos, samples);
  std::vector<TaskResult> references;
  if (reference) references = measure(arguments, *reference, bos, samples);
  Json report = to_json(std::span(results), arguments.limit);
  if (reference) {
    report["reference"] = to_json(std::span(references), arguments.limit);
    report["reference"]["model"] = arguments.reference;
    report["beside_reference"] = to_json(std::span(results), std::span(references));
  }
  double seconds = report["seconds"];
  if (reference) seconds += report["reference"]["seconds"].get<double>();
  print(results, references, seconds);
  if (arguments.runtime.runtime.profile) print_profile(model->profile());
  if (!arguments.items.empty()) {
    std::string lines;
    for (const TaskResult& result : results) lines += question_lines(result);
    write_file_atomically(arguments.items, lines);
  }
  if (arguments.json.empty()) return;
  report.update({{"model", arguments.model},
                 {"data", arguments.data},
                 {"bos", bos},
                 {"activations", arguments.runtime.runtime.activations == ActivationFormat::f32 ? "f32" : "i8"},
                 {"kv", arguments.runtime.kv == KvType::f16 ? "f16" : "i8"}});
  write_file_atomically(arguments.json, json_text(report, 1));
}

}  // namespace

void add_zeroshot(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* const command = app.add_subcommand("zeroshot", "Measure how many questions a model answers right");
  command->add_option("MODEL", arguments->model, "Hugging Face folder, GGUF file or artifact")->required();
  command
      ->add_option("--reference", arguments->reference,
                   "Ask this model, too: how far apart the two are, and how many answers are the same")
      ->type_name("MODEL");
  command->add_option("--data", arguments->data, "Where the tasks' files are (JSON lines)")
      ->required()
      ->type_name("FOLDER");
  command
      ->add_option("--tasks", arguments->tasks,
                   "Of arc_easy, arc_challenge, hellaswag, piqa, openbookqa, boolq, with commas between [all]")
      ->delimiter(',')
      ->type_name("TASKS");
  command->add_option("--limit", arguments->limit, "Ask N questions of each task, the same ones every time [all]")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command->add_flag("--bos,!--no-bos", arguments->bos, "Put the tokenizer's BOS first, or not [as it does by itself]")
      ->multi_option_policy(CLI::MultiOptionPolicy::Throw);
  command->add_option("--json", arguments->json, "Write the results as JSON")->type_name("FILE");
  command->add_option("--items", arguments->items, "Write every question's log-likelihoods as JSON lines")
      ->type_name("FILE");
  add_runtime_options(*command, arguments->runtime);
  command->add_flag("--quiet", arguments->quiet, "No progress");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace scalebits::cli
