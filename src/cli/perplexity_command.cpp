// `scalebits perplexity`: how well a model predicts a text, and how far it is from a reference model.
#include "cli/commands.h"
#include "cli/progress_line.h"

#include "core/atomic_file.h"
#include "core/mapped_file.h"
#include "core/parallel.h"
#include "evaluate/kl.h"
#include "evaluate/open_model.h"
#include "evaluate/perplexity.h"
#include "graph/decoder.h"
#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace scalebits::cli {
namespace {

struct PerplexityOptions {
  std::string model, text, reference, json;
  WindowOptions windows;
  bool bos = false, bf16 = false, quiet = false;
  int threads = 0;
};

void measure(PerplexityOptions options) {
  if (options.threads > 0) set_thread_count(options.threads);
  const OpenedModel opened = open_model(options.model);
  const Tokenizer& tokenizer = opened.require_tokenizer();
  if (options.bos) {
    options.windows.bos = tokenizer.bos();
    if (!options.windows.bos)
      fail(ErrorKind::usage, "{}: --bos was given, but the tokenizer has no such token", options.model);
  }
  const auto text = MappedFile::open(options.text);
  const std::vector<std::int32_t> ids = tokenizer.encode(
      {reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size()}, {.parse_special = false});
  const at::Tensor windows = cut_windows(ids, options.windows);
  const DecoderOptions decoder_options{.compute = options.bf16 ? Compute::bf16 : Compute::f32};
  Decoder model(opened.spec, *opened.weights, decoder_options);

  Json report = {{"model", options.model},
                 {"text", options.text},
                 {"context", options.windows.context},
                 {"windows", windows.size(0)},
                 {"bos", options.bos},
                 {"scored_tokens", windows.size(0) * (options.windows.context - 1)}};
  PerplexityResult result;
  if (options.reference.empty()) {
    ProgressLine line(options.quiet);
    result = measure_perplexity(model, windows, std::ref(line));
    report["result"] = to_json(result);
  } else {
    const OpenedModel reference = open_model(options.reference);
    Decoder reference_model(reference.spec, *reference.weights, decoder_options);
    Comparison comparison;
    {
      ProgressLine line(options.quiet);
      comparison = compare_models(model, reference_model, *reference.weights, windows, std::ref(line));
    }
    result = comparison.model;
    const KlResult& divergence = comparison.divergence;
    fmt::print(
        "KL(reference || model)  {:.6f} ± {:.6f} nats/token; 99th percentile {:.4f}; same likeliest token {:.2f} %\n",
        divergence.kl.mean(), divergence.kl.standard_error(), divergence.percentile_99,
        100 * divergence.top1_agreement);
    fmt::print("perplexity of reference {:.4f} ± {:.4f}\n", comparison.reference.perplexity(),
               comparison.reference.standard_error());
    report["reference"] = options.reference;
    report["result"] = to_json(result);
    report["reference_result"] = to_json(comparison.reference);
    report["divergence"] = to_json(divergence);
  }
  fmt::print(
      "perplexity              {:.4f} ± {:.4f} ({:.6f} nats/token; {} windows of {} tokens, the first of each not "
      "scored, {})\n",
      result.perplexity(), result.standard_error(), result.nll.mean(), windows.size(0), options.windows.context,
      options.bos ? "BOS before each" : "no BOS");
  if (!options.json.empty()) write_file_atomically(options.json, report.dump(1));
}

}  // namespace

void add_perplexity(CLI::App& app) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* const command = app.add_subcommand("perplexity", "Measure how well a model predicts a text");
  command->add_option("MODEL", options->model, "Hugging Face folder, GGUF file or artifact")->required();
  command->add_option("--text", options->text, "The text to predict (UTF-8)")->required()->type_name("FILE");
  command->add_option("--context", options->windows.context, "Tokens of a window [1024]; windows do not overlap")
      ->check(CLI::Range(2, 1 << 20))
      ->type_name("N");
  command->add_option("--windows", options->windows.max_windows, "Use the first N windows only [all]")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command->add_flag("--bos", options->bos, "Put the tokenizer's BOS first in each window");
  command->add_option("--reference", options->reference, "Also measure the divergence from this model's predictions")
      ->type_name("MODEL");
  command->add_option("--json", options->json, "Write the result, window by window, as JSON")->type_name("FILE");
  command
      ->add_option_function<std::string>(
          "--compute", [options](const std::string& name) { options->bf16 = name == "bf16"; },
          "Operands of matrix products [f32]; bf16 is faster on some machines and a little rougher")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->type_name("TYPE");
  command->add_option("--threads", options->threads, "Threads to use [all]")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_flag("--quiet", options->quiet, "No progress");
  command->callback([options] { measure(*options); });
}

}  // namespace scalebits::cli
