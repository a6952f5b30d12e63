// `scalebits perplexity`: how well a model predicts a text, and how far it is from a reference model.
#include "cli/commands.h"
#include "cli/evaluation.h"

#include <memory>

namespace scalebits::cli {

void add_perplexity(CLI::App& app) {
  auto arguments = std::make_shared<EvaluationArguments>();
  CLI::App* const command = app.add_subcommand("perplexity", "Measure how well a model predicts a text");
  command->add_option("MODEL", arguments->model, "Hugging Face folder, GGUF file or artifact")->required();
  command->add_option("--reference", arguments->reference, "Also measure the divergence from this model's predictions")
      ->type_name("MODEL");
  add_evaluation_options(*command, *arguments);
  command->callback([arguments] { evaluate_text(*arguments); });
}

}  // namespace scalebits::cli
