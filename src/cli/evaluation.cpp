#include "cli/evaluation.h"

#include "cli/progress_line.h"
#include "core/atomic_file.h"
#include "core/json_text.h"
#include "core/mapped_file.h"
#include "evaluate/kl.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace scalebits::cli {
namespace {

std::vector<std::int32_t> tokens_of_file(const Tokenizer& tokenizer, const std::string& path) {
  return tokenizer.encode(MappedFile::open(path)->text(), {.parse_special = false});
}

/// Nothing for a single window, which tells nothing of an error.
std::string error_text(const WindowMeans& means, double error, int digits) {
  return means.windows.size() < 2 ? "" : fmt::format(" ± {:.{}f}", error, digits);
}

/// `tokens`: of the text, by the model.
Comparison compare(RuntimeModel& model, const EvaluationArguments& arguments, const std::vector<std::int32_t>& tokens,
                   const TextWindows& windows, const SessionOptions& session) {
  const auto reference = open_model(arguments.reference, arguments.runtime);
  if (reference->tokenizer() != nullptr && tokens_of_file(*reference->tokenizer(), arguments.text) != tokens)
    fail_input("the models cannot be compared: {} reads {} as other tokens than {}", arguments.reference,
               arguments.text, arguments.model);
  Comparison comparison;
  {
    ProgressLine line(arguments.quiet);
    comparison = compare_models(model, *reference, windows, session, std::ref(line));
  }
  const KlResult& divergence = comparison.divergence;
  fmt::print("KL(reference || model)  {:.6f}{} nats/token; 99th percentile {:.4f}; same likeliest token {:.2f} %\n",
             divergence.kl.mean(), error_text(divergence.kl, divergence.kl.standard_error(), 6),
             divergence.percentile_99, 100 * divergence.top1_agreement);
  fmt::print("perplexity of reference {:.4f}{}\n", comparison.reference.perplexity(),
             error_text(comparison.reference.nll, comparison.reference.standard_error(), 4));
  return comparison;
}

}  // namespace

void evaluate_text(EvaluationArguments arguments) {
  if (arguments.runtime.runtime.device == RuntimeDevice::cuda && arguments.runtime.positions == 0)
    arguments.runtime.positions = arguments.windows.context > 0 ? arguments.windows.context : kUsualContext;
  if (!arguments.json.empty()) check_output(arguments.json, {arguments.model, arguments.reference, arguments.text});
  const auto model = open_model(arguments.model, arguments.runtime);
  if (arguments.windows.context == 0) arguments.windows.context = std::min(kUsualContext, model->spec().max_positions);
  const Tokenizer& tokenizer = model->require_tokenizer();
  if (arguments.bos) {
    arguments.windows.bos = tokenizer.bos();
    if (!arguments.windows.bos)
      fail(ErrorKind::usage, "{}: --bos was given, but the tokenizer has no such token", arguments.model);
  }
  arguments.windows.text = arguments.text;
  const std::vector<std::int32_t> tokens = tokens_of_file(tokenizer, arguments.text);
  const TextWindows windows = cut_windows(tokens, arguments.windows);
  const SessionOptions session = arguments.runtime.session();

  Json report = {{"model", arguments.model},
                 {"text", arguments.text},
                 {"context", windows.context},
                 {"windows", windows.count()},
                 {"bos", arguments.bos},
                 {"activations", arguments.runtime.runtime.activations == ActivationFormat::f32 ? "f32" : "i8"},
                 {"kv", arguments.runtime.kv == KvType::f16 ? "f16" : "i8"},
                 {"scored_tokens", windows.count() * (windows.context - 1)}};
  PerplexityResult result;
  if (arguments.reference.empty()) {
    ProgressLine line(arguments.quiet);
    result = measure_perplexity(*model, windows, session, std::ref(line));
    report["result"] = to_json(result);
  } else {
    const Comparison comparison = compare(*model, arguments, tokens, windows, session);
    result = comparison.model;
    report["reference"] = arguments.reference;
    report["result"] = to_json(result);
    report["reference_result"] = to_json(comparison.reference);
    report["divergence"] = to_json(comparison.divergence);
  }
  fmt::print(
      "perplexity              {:.4f}{} ({:.6f} nats/token; {} windows of {} tokens, the first of each not "
      "scored, {})\n",
      result.perplexity(), error_text(result.nll, result.standard_error(), 4), result.nll.mean(), windows.count(),
      windows.context, arguments.bos ? "BOS before each" : "no BOS");
  if (arguments.runtime.runtime.profile) print_profile(model->profile());
  if (!arguments.json.empty()) write_file_atomically(arguments.json, json_text(report, 1));
}

void add_evaluation_options(CLI::App& command, EvaluationArguments& arguments) {
  command.add_option("--text", arguments.text, "The text to predict (UTF-8)")->required()->type_name("FILE");
  command
      .add_option("--context", arguments.windows.context,
                  "Tokens of a window [1024, or the model's positions]; windows do not overlap")
      ->check(CLI::Range(2, 1 << 20))
      ->type_name("N");
  command.add_option("--windows", arguments.windows.max_windows, "Use the first N windows only [all]")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command.add_flag("--bos", arguments.bos, "Put the tokenizer's BOS first in each window");
  command.add_option("--json", arguments.json, "Write the result, window by window, as JSON")->type_name("FILE");
  add_runtime_options(command, arguments.runtime);
  command.add_flag("--quiet", arguments.quiet, "No progress");
}

}  // namespace scalebits::cli
